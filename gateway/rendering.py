"""A request as the text that its model reads, and the form that the answer will have.

A template that shows tools gets them; for another they are described in the system prompt, and the answer is
constrained to calls or a response. Thoughts are closed before a constrained answer: no grammar could stand behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gateway.conversation import Harmless, conversation, flattened, harmless_json
from gateway.outcomes import Code, Refused
from gateway.output import literal_format, output_format
from gateway.request import ChatRequest
from gateway.tools import ToolUse
from services.config.schema import BotConfig
from services.contracts.chats import OutputFormat
from services.tokenizer.chat_template import TemplateRejected
from services.tokenizer.template_family import ToolStyle
from services.tokenizer.tokenizer import Tokenizer

EFFORTS = {"none": "low", "minimal": "low", "xhigh": "high", "max": "high"}  # as templates know them; else as it is
PLAIN = OutputFormat()
HARMONY_FINAL = "<|channel|>final<|message|>"


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt as text."""

    text: str
    output: OutputFormat = PLAIN


def rendered(tokenizer: Tokenizer, bot: BotConfig, request: ChatRequest) -> Rendered:
    """Raises Refused where the model's template does not take the messages."""
    try:
        if _shown_by_template(tokenizer, request):
            return _render(tokenizer, bot, request, native=True)
    except TemplateRejected as error:
        if not request.mentions_tools:
            raise _rejected(error) from None
    try:
        return _render(tokenizer, bot, request, native=False)
    except TemplateRejected as error:
        raise _rejected(error) from None


def _rejected(error: TemplateRejected) -> Refused:
    return Refused(Code.INVALID_VALUE, f"The model's chat template: {error}", param="messages")


def _shown_by_template(tokenizer: Tokenizer, request: ChatRequest) -> bool:
    """Whether the model's own way of calling tools does. It cannot be held to a schema, nor to one call."""
    if not request.mentions_tools:
        return True
    use = request.tool_use
    free = use is None or use.required or (use.calls_max > 1 and request.answer_schema is None)
    return free and tokenizer.takes_tools


def _render(tokenizer: Tokenizer, bot: BotConfig, request: ChatRequest, *, native: bool) -> Rendered:
    use = request.tool_use
    output = output_format(use, request.answer_schema, native=native, whole=not request.stream)
    if request.says:
        output = literal_format(request.says, whole=not request.stream)
    bounds = [most for most in (bot.thinking_tokens_max, request.thinking_tokens_max) if most is not None]
    if bounds and not output.json_schema:
        output = replace(output, thinking_tokens_max=min(bounds))
    thinks = False if output.json_schema else _thinks(bot, request)
    variables = _variables(tokenizer, request, thinks)
    if native:
        messages = conversation(bot.system, request.messages, tokenizer.harmless)
        if use is not None:
            variables["tools"] = _tools(use, tokenizer.harmless)
    else:
        messages = flattened(bot.system, request.messages, tokenizer.harmless, use, request.answer_schema)
    text = tokenizer.render(messages, True, **variables)
    return _with_thoughts(tokenizer, text, output, thinks)


def _thinks(bot: BotConfig, request: ChatRequest) -> bool | None:
    """As the request says, else as the bot says; None: as the template has it."""
    if request.thinks is not None:
        return request.thinks
    return None if bot.thinking == "auto" else bot.thinking == "on"


def _variables(tokenizer: Tokenizer, request: ChatRequest, thinks: bool | None) -> dict[str, object]:
    variables: dict[str, object] = {}
    if thinks is not None:
        variables |= {"enable_thinking": thinks, "thinking": thinks}  # one or the other, by template
    effort = request.reasoning_effort if thinks is not False else "none"
    if effort is not None and tokenizer.family.reasoning_effort:
        variables["reasoning_effort"] = EFFORTS.get(effort, effort)
    return variables


def _tools(use: ToolUse, harmless: Harmless) -> Sequence[object]:
    return [harmless_json(tool.rendered(), harmless) for tool in use.shown]


def _with_thoughts(tokenizer: Tokenizer, text: str, output: OutputFormat, thinks: bool | None) -> Rendered:
    """The prompt with its thoughts closed where there shall be none, and whether the answer begins inside them."""
    family = tokenizer.family
    if family.name is ToolStyle.HARMONY and output.json_schema:
        return Rendered(text + HARMONY_FINAL, output)
    if not family.begins_inside(text):
        return Rendered(text, output)
    if thinks is False:
        return Rendered(f"{text.rstrip()}\n\n{family.think_end}\n\n", output)
    return Rendered(text, replace(output, thinking=True))
