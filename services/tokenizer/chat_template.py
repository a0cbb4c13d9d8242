"""Chat templates: Jinja in a sandbox, set up as transformers sets it up (`utils/chat_template_utils.py`).

The template comes with the model, so it is foreign code: it reaches only the attributes that the sandbox
allows, and can change nothing that it is given.

Control tokens in what people write, such as `<|im_end|>` in a message, are text and must not end a turn: `breaker`
breaks each by an invisible space, so that the tokenizer takes it for words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from itertools import groupby
from os.path import commonprefix
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from services.tokenizer.call_spelling import CallSpelling, TemplateMessage, spelling_of

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class TemplateRejected(ValueError):
    """The model's template refuses these messages. The message is the template's own where it has one."""


class _Generation(Extension):
    """`{% generation %}` marks what an assistant wrote, for training; here it is its content."""

    tags = {"generation"}  # noqa: RUF012  (the base class's own declaration)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now(UTC).strftime(form)
    return environment


def variables_of(source: str) -> frozenset[str]:
    """Names that a template reads from outside, `tools` for example; none where it is not valid Jinja."""
    environment = _environment()
    try:
        return frozenset(meta.find_undeclared_variables(environment.parse(source)))
    except jinja2.TemplateError:
        return frozenset()


class ChatTemplate:
    """One compiled template. Raises TemplateRejected at once for a template that is not valid Jinja.

    Some templates refuse a system message, drop it, or refuse two messages of one role in a row. Both are tried
    once: the system prompt then goes into the first user message, and neighbours of one role become one message.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise TemplateRejected(f"the model's chat template is not valid: {error}") from error
        self.source = source
        self._special_tokens = dict(special_tokens)
        self._folds_system = not self._takes(("system", "user"))
        self._joins_neighbours = not self._takes(("user", "user"))

    def _takes(self, roles: Sequence[str]) -> bool:
        """Whether the text of each message comes out; a template that refuses even one user message takes anything."""
        texts = [f"trial-{number}" for number in range(len(roles))]
        try:
            self._render([{"role": "user", "content": "trial"}], True, {})
        except TemplateRejected:
            return True
        try:
            messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
            rendered = self._render(messages, True, {})
        except TemplateRejected:
            return False
        return all(text in rendered for text in texts)

    @cached_property
    def calls(self) -> CallSpelling | None:
        """How the template wants tool calls; None where it does not show tools, calls and their results."""
        return spelling_of(self._tried)

    def _tried(self, messages: Sequence[TemplateMessage], variables: Mapping[str, object]) -> str | None:
        try:
            return self._render(messages, True, variables)
        except TemplateRejected:
            return None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
        variables: Mapping[str, object],
    ) -> str:
        """`messages` have `role` and `content`, and may have OpenAI's `tool_calls` (arguments as objects),
        `tool_call_id`, `name` and `reasoning_content`; `variables` are further names a template may look at."""
        if self.calls is not None:
            messages = self.calls.spelled(messages)
        if self._folds_system:
            messages = _folded(messages)
        return self._render(_joined(messages) if self._joins_neighbours else messages, add_generation_prompt, variables)

    def _render(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool, variables: Mapping[str, object]
    ) -> str:
        try:
            return self._template.render(
                {
                    **self._special_tokens,
                    **variables,
                    "messages": list(messages),  # some templates add to them
                    "add_generation_prompt": add_generation_prompt,
                }
            )
        except jinja2.TemplateError as error:
            raise TemplateRejected(str(error)) from error
        except (TypeError, ValueError, KeyError, IndexError, ZeroDivisionError, OverflowError) as error:
            raise TemplateRejected(f"the model's chat template cannot take these messages: {error}") from error


def _folded(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """System messages as a user's; the first goes into the user message behind it."""
    folded: list[Mapping[str, Any]] = [
        {**message, "role": "user"} if message["role"] == "system" else message for message in messages
    ]
    if len(messages) > 1 and messages[0]["role"] == "system" and folded[1]["role"] == "user":
        folded[:2] = _joined(folded[:2])
    return folded


def _joined(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Neighbours of one role as one message; calls and their results stay apart."""
    joined: list[Mapping[str, Any]] = []
    for message in messages:
        plain = message["role"] != "tool" and "tool_calls" not in message
        if joined and plain and joined[-1]["role"] == message["role"] and "tool_calls" not in joined[-1]:
            joined[-1] = {**message, "content": f"{joined[-1]['content']}\n\n{message['content']}"}
        else:
            joined.append(message)
    return joined


def _tojson(value: object, ensure_ascii: bool = False, indent: int | None = None, **_: object) -> str:
    """Jinja's own escapes for HTML, which a model has never seen."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


_BREAK = "\u200b"
# What chat templates of the common families spell turns with: a model's own file may call them ordinary tokens.
_COMMON = (
    r"<(?=[|｜][^|｜<>\s]{1,48}[|｜]>|/?s>|(?:start|end)_of_turn>|(?:bos|eos|pad|unk)>|<SYS>>|</SYS>>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CALLS)\]|\|[a-z]{1,48}\|\])"
)


def breaker(control: Iterable[str] = ()) -> Callable[[str], str]:
    """What breaks the common control tokens in a text, and a model's own: 10 ms for the worst 200,000 characters,
    however many tokens there are."""
    common = re.compile(_COMMON)
    own = sorted({word for word in control if len(word) > 1 and not common.match(word)})
    firsts = groupby(own, key=lambda word: word[0])
    parts = [f"{re.escape(first)}(?={_any_of([word[1:] for word in words])})" for first, words in firsts]
    pattern = re.compile("|".join([_COMMON, *parts]))
    return lambda text: pattern.sub(lambda found: found[0] + _BREAK, text)


def _any_of(words: Sequence[str]) -> str:
    """A pattern for the shortest of sorted `words` that a text goes on with. Alternatives begin with different
    characters: a thousand words are not tried one after another at each place."""
    prefix = commonprefix(words)  # noqa: RUF071  (character by character it shall be)
    if prefix in words:
        return re.escape(prefix)
    by_next = groupby((word[len(prefix) :] for word in words), key=lambda rest: rest[0])
    return f"{re.escape(prefix)}(?:{'|'.join(_any_of(list(rests)) for _, rests in by_next)})"
