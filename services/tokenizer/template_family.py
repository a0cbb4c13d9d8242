"""What a model's chat template says about its answers: how it spells tool calls and thoughts.

Only the template knows: two models of one architecture may be trained on two spellings.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from services.tokenizer.chat_template import variables_of


class ToolStyle(StrEnum):
    """How a template spells tool calls. One parser each, in services/worker/parsers."""

    HERMES = "hermes"  # <tool_call>{"name": "f", "arguments": {}}</tool_call>
    LLAMA3_JSON = "llama3_json"  # {"name": "f", "parameters": {}}
    MISTRAL = "mistral"  # [TOOL_CALLS][{"name": "f", "arguments": {}}], or [TOOL_CALLS]f[ARGS]{}
    QWEN3_CODER = "qwen3_coder"  # <tool_call><function=f><parameter=p>text</parameter></function></tool_call>
    HARMONY = "harmony"  # <|channel|>commentary to=functions.f<|message|>{}<|call|>
    GEMMA = "gemma"  # <|tool_call>call:f{p:<|"|>text<|"|>}<tool_call|>
    NONE = "none"  # not at all, or in a way that no parser knows


@dataclass(frozen=True, slots=True)
class TemplateFamily:
    """`markers` are spellings that a parser has to see. Where the model has one as a special token, its engine must be
    asked to keep it in the text."""

    name: ToolStyle = ToolStyle.NONE
    takes_tools: bool = False  # the template renders `tools`, and a parser knows its calls
    think_begin: str = ""  # "": no thoughts, or Harmony's channels
    think_end: str = ""
    enable_thinking: bool = False  # the template reads this variable
    reasoning_effort: bool = False  # and this one
    markers: tuple[str, ...] = ()

    def begins_inside(self, prompt: str) -> bool:
        """Whether an answer to this rendered prompt begins inside the model's thoughts."""
        return bool(self.think_begin) and prompt.rstrip().endswith(self.think_begin.rstrip())


_THOUGHTS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|channel>thought\n", "<channel|>"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
_MARKERS = {
    ToolStyle.HERMES: ("<tool_call>", "</tool_call>"),
    ToolStyle.LLAMA3_JSON: ("<|python_tag|>",),
    ToolStyle.MISTRAL: ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
    ToolStyle.QWEN3_CODER: ("<tool_call>", "</tool_call>"),
    ToolStyle.HARMONY: ("<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|call|>"),
    ToolStyle.GEMMA: (
        *("<|tool_call>", "<tool_call|>", '<|"|>'),
        *("<start_function_call>", "<end_function_call>", "<escape>"),
    ),
}
_TAG = re.compile(r"<[^<>]+>|\[[^]]+\]")
_STYLES: tuple[tuple[ToolStyle, Callable[[str], bool]], ...] = (  # the first that fits
    (ToolStyle.HARMONY, lambda source: "<|channel|>" in source and "<|message|>" in source),
    (ToolStyle.GEMMA, lambda source: "<|tool_call>" in source or "<start_function_call>" in source),
    (ToolStyle.MISTRAL, lambda source: "[TOOL_CALLS]" in source),
    (ToolStyle.QWEN3_CODER, lambda source: all(tag in source for tag in ("<tool_call>", "<function=", "<parameter="))),
    (ToolStyle.HERMES, lambda source: "<tool_call>" in source and "<arg_key>" not in source),
    (
        ToolStyle.LLAMA3_JSON,
        lambda source: '"parameters": ' in source and ("<|start_header_id|>" in source or "<|header_start|>" in source),
    ),
)


def family_of(template: str) -> TemplateFamily:
    """Read from the template's source; "" is a model that brings none."""
    variables = variables_of(template)
    style = next((style for style, fits in _STYLES if fits(template)), ToolStyle.NONE)
    takes_tools = style is not ToolStyle.NONE and "tools" in variables
    if not takes_tools and style is not ToolStyle.HARMONY:  # Harmony spells thoughts, too
        style = ToolStyle.NONE
    begin, end = next((tags for tags in _THOUGHTS if tags[0] in template or tags[1] in template), ("", ""))
    if style is ToolStyle.HARMONY:
        begin = end = ""
    return TemplateFamily(
        name=style,
        takes_tools=takes_tools,
        think_begin=begin,
        think_end=end,
        enable_thinking="enable_thinking" in variables,
        reasoning_effort="reasoning_effort" in variables,
        markers=(*_MARKERS.get(style, ()), *_TAG.findall(begin + end)),
    )
