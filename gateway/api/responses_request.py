"""OpenAI's Responses API: POST /v1/responses becomes a chat.

It is stateless: what would need responses that this host kept is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AliasChoices, ConfigDict, Field

from gateway.api.shapes import Shape, checked, checked_kind, refuse_mixed
from gateway.outcomes import Code, Refused

ITEMS_MAX = 4096
NEEDS_STATE = ("previous_response_id", "conversation", "prompt", "background")  # refused unless null or false
CHAT_STYLE = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "functions": "tools",
    "n": "several requests",
}
LOGPROBS = "message.output_text.logprobs"


class InputText(Shape):
    """A piece of text, as a client or an earlier answer has it; of another model's answer, also why it refused."""

    type: Literal["input_text", "output_text", "text", "refusal"]
    text: Annotated[str, Field(validation_alias=AliasChoices("text", "refusal"))]


class InputMessage(Shape):
    """One message."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Annotated[list[InputText], Field(max_length=1024)]

    def chat(self) -> dict[str, object]:
        """As a chat message has it."""
        if isinstance(self.content, str):
            return {"role": self.role, "content": self.content}
        return {"role": self.role, "content": [{"type": "text", "text": part.text} for part in self.content]}


class CallItem(Shape):
    """A tool call of an earlier answer."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class CallOutput(Shape):
    """What a tool gave back."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | Annotated[list[InputText], Field(max_length=1024)]

    @property
    def text(self) -> str:
        return self.output if isinstance(self.output, str) else "".join(part.text for part in self.output)


class Thought(Shape):
    """A piece of thoughts."""

    type: Literal["reasoning_text", "summary_text"]
    text: str


class ReasoningItem(Shape):
    """Thoughts of an earlier answer."""

    type: Literal["reasoning"]
    summary: list[Thought] | None = None
    content: list[Thought] | None = None

    @property
    def text(self) -> str:
        return "".join(thought.text for thought in self.content or self.summary or ())


ITEMS: Mapping[str, type[InputMessage | CallItem | CallOutput | ReasoningItem]] = {
    "message": InputMessage,
    "function_call": CallItem,
    "function_call_output": CallOutput,
    "reasoning": ReasoningItem,
}


class FunctionTool(Shape):
    """A tool that the client runs. The tools that OpenAI runs itself are refused by their type."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, object] | None = None
    strict: bool | None = None


class NamedChoice(Shape):
    """The one tool that the answer must call."""

    type: Literal["function"]
    name: str


class AllowedToolsParam(Shape):
    """Some of the tools."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[NamedChoice]


class TextFormat(Shape):
    """What the answer must be."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, object] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextConfig(Shape):
    """How text is answered."""

    format: TextFormat | None = None


class Reasoning(Shape):
    """How the model thinks. With a `summary` the thoughts come as one, as clients of hosted models read them."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class ResponsesRequest(Shape):
    """The body of POST /v1/responses. Other parameters are those of a chat request."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, Field(min_length=1, max_length=160)]
    input: str | Annotated[list[dict[str, object]], Field(min_length=1, max_length=ITEMS_MAX)]
    instructions: str | None = None
    tools: list[dict[str, object]] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedChoice | AllowedToolsParam | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    include: list[str] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    max_tool_calls: int | None = None
    stream_options: dict[str, object] | None = None
    temperature: float | None = None
    top_p: float | None = None
    parallel_tool_calls: bool | None = None
    metadata: dict[str, str] | None = None

    @property
    def summarized(self) -> bool:
        """Whether thoughts are answered as a summary."""
        return self.reasoning is not None and bool(self.reasoning.summary or self.reasoning.generate_summary)

    def chat(self) -> dict[str, object]:
        """As a chat request has it. Raises Refused."""
        return {
            **(self.model_extra or {}),
            "model": self.model,
            "messages": self._messages(),
            **_given(
                temperature=self.temperature,
                top_p=self.top_p,
                parallel_tool_calls=self.parallel_tool_calls,
                metadata=self.metadata,
                max_completion_tokens=self.max_output_tokens,
                reasoning_effort=self.reasoning.effort if self.reasoning else None,
                response_format=_response_format(self.text.format if self.text else None),
                **self._logprobs(),
                **self._tools(),
            ),
        }

    def _messages(self) -> list[dict[str, object]]:
        first: list[dict[str, object]] = []
        if self.instructions:
            first.append({"role": "system", "content": self.instructions})
        if isinstance(self.input, str):
            return [*first, {"role": "user", "content": self.input}]
        turns = _Turns(first)
        for number, item in enumerate(self.input):
            turns.add(checked_kind(ITEMS, item, f"input[{number}]", default="message"))
        return turns.messages

    def _tools(self) -> dict[str, object]:
        tools = [checked(FunctionTool, tool, f"tools[{number}]") for number, tool in enumerate(self.tools or ())]
        choice: object = self.tool_choice
        if isinstance(choice, AllowedToolsParam):
            names = {tool.name for tool in choice.tools}
            tools, choice = [tool for tool in tools if tool.name in names], choice.mode
        elif isinstance(choice, NamedChoice):
            choice = {"type": "function", "function": {"name": choice.name}}
        shown = [
            {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)} for tool in tools
        ]
        return {"tools": shown or None, "tool_choice": choice}

    def _logprobs(self) -> dict[str, object]:
        wanted = LOGPROBS in (self.include or ()) or bool(self.top_logprobs)
        return {"logprobs": True, "top_logprobs": self.top_logprobs or 0} if wanted else {}


class _Turns:
    """Chat messages from items: thoughts, text and calls that stand together are one message of the assistant."""

    def __init__(self, messages: list[dict[str, object]]) -> None:
        self.messages = messages
        self._calls: list[dict[str, object]] = []  # of the assistant's message that is not over yet

    def add(self, item: InputMessage | CallItem | CallOutput | ReasoningItem) -> None:
        """The next item."""
        if isinstance(item, CallOutput):
            self.messages.append({"role": "tool", "tool_call_id": item.call_id, "content": item.text})
        elif isinstance(item, CallItem):
            function = {"name": item.name, "arguments": item.arguments}
            assistant = self._assistant("")
            if "tool_calls" not in assistant:
                self._calls = []
                assistant["tool_calls"] = self._calls
            self._calls.append({"id": item.call_id, "type": "function", "function": function})
        elif isinstance(item, ReasoningItem):
            self._assistant("reasoning_content", "content", "tool_calls")["reasoning_content"] = item.text
        elif item.role == "assistant":
            self._assistant("content", "tool_calls")["content"] = item.chat()["content"]
        else:
            self.messages.append(item.chat())

    def _assistant(self, *unless: str) -> dict[str, object]:
        """The assistant's last message, or a new one where that has one of these members already."""
        last = self.messages[-1] if self.messages else {}
        if last.get("role") == "assistant" and not any(last.get(name) for name in unless):
            return last
        self.messages.append({"role": "assistant", "content": ""})
        return self.messages[-1]


def parsed(body: Mapping[str, object]) -> ResponsesRequest:
    """A checked request. Raises Refused."""
    refuse_mixed(body, "/v1/responses", CHAT_STYLE)
    for name in NEEDS_STATE:
        if body.get(name) not in (None, False):
            raise Refused(
                Code.UNSUPPORTED_PARAMETER, f"{name} is not supported: this host keeps no responses.", param=name
            )
    return checked(ResponsesRequest, {name: value for name, value in body.items() if name not in NEEDS_STATE})


def _response_format(wanted: TextFormat | None) -> dict[str, object] | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {"type": "json_object"}
    schema = wanted.model_dump(include={"name", "description", "strict"}, exclude_none=True)
    return {"type": "json_schema", "json_schema": {**schema, "schema": wanted.schema_}}


def _given(**members: object) -> dict[str, object]:
    return {name: value for name, value in members.items() if value is not None}
