"""What stands between an engine and the reply writer: a parser says what each piece of an answer is.

One parser a spelling of calls, chosen by the family of the model's chat template. It holds a chat's state and gateways
hold none, so a stream can be resumed at any of them.
"""

from __future__ import annotations

from services.contracts.chats import OutputFormat, ToolFormat
from services.tokenizer.template_family import TemplateFamily, ToolStyle
from services.worker.parsers.base import ContentParser, Machine, Parser
from services.worker.parsers.constrained import CallsParser, ChoiceParser
from services.worker.parsers.gemma import GemmaParser
from services.worker.parsers.harmony import HarmonyParser
from services.worker.parsers.hermes import HermesParser
from services.worker.parsers.llama3 import Llama3Parser
from services.worker.parsers.mistral import MistralParser
from services.worker.parsers.qwen3_coder import Qwen3CoderParser
from services.worker.parsers.thinking import ThinkingParser

_OF_STYLE: dict[ToolStyle, type[Machine]] = {
    ToolStyle.HERMES: HermesParser,
    ToolStyle.LLAMA3_JSON: Llama3Parser,
    ToolStyle.MISTRAL: MistralParser,
    ToolStyle.QWEN3_CODER: Qwen3CoderParser,
    ToolStyle.GEMMA: GemmaParser,
}


def machine_of(family: TemplateFamily, output: OutputFormat) -> type[Machine] | None:
    """What reads such an answer; None: all of its text is content. A grammar leaves no place for thoughts or marks."""
    if output.tools is ToolFormat.CALLS:
        return CallsParser
    if output.tools is ToolFormat.CHOICE:
        return ChoiceParser
    if output.json_schema or output.plain:
        return None
    if family.name is ToolStyle.HARMONY:
        return HarmonyParser
    if output.tools is ToolFormat.FAMILY and family.name in _OF_STYLE:
        return _OF_STYLE[family.name]
    return ThinkingParser if family.think_end else None


def make_parser(family: TemplateFamily, output: OutputFormat, chat: str, written: str) -> Parser:
    """A parser that goes on after `written`, which earlier attempts of the chat wrote, as the model wrote it."""
    machine = machine_of(family, output)
    return ContentParser() if machine is None else machine(family, output, chat, written)
