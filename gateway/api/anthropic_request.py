"""Anthropic's Messages API: POST /v1/messages becomes a chat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import orjson
from pydantic import ConfigDict, Field

from gateway.api.shapes import Shape, checked, checked_kind, refuse_mixed
from gateway.outcomes import Code, Refused
from gateway.request import MESSAGES_MAX

BUDGET_TOKENS_MIN = 1024  # as at Anthropic
CHAT_STYLE = {
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "input": "messages",
    "instructions": "system",
    "stop": "stop_sequences",
    "response_format": "output_config.format",
    "n": "several requests",
}


class TextBlock(Shape):
    """Text."""

    type: Literal["text"]
    text: str


class ThinkingBlock(Shape):
    """Thoughts of an earlier answer."""

    type: Literal["thinking"]
    thinking: str


class RedactedBlock(Shape):
    """Thoughts that only another host can read: left out."""

    type: Literal["redacted_thinking"]


class ToolUseBlock(Shape):
    """A tool call of an earlier answer."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, object]


class ToolResult(Shape):
    """What a tool gave back."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | Annotated[list[TextBlock], Field(max_length=1024)] = ""
    is_error: bool | None = None

    @property
    def text(self) -> str:
        text = self.content if isinstance(self.content, str) else "".join(block.text for block in self.content)
        return text or ("error" if self.is_error else "")


BlockParam = TextBlock | ThinkingBlock | RedactedBlock | ToolUseBlock | ToolResult
BLOCKS: Mapping[str, Mapping[str, type[BlockParam]]] = {
    "user": {"text": TextBlock, "tool_result": ToolResult},
    "assistant": {
        "text": TextBlock,
        "thinking": ThinkingBlock,
        "redacted_thinking": RedactedBlock,
        "tool_use": ToolUseBlock,
    },
    "system": {"text": TextBlock},
}


class MessageParam(Shape):
    """One message."""

    role: Literal["user", "assistant", "system"]
    content: str | Annotated[list[dict[str, object]], Field(max_length=1024)]


class ToolParam(Shape):
    """A tool that the client runs. The tools that Anthropic runs itself are refused by their type."""

    type: Literal["custom"] | None = None
    name: str
    description: str | None = None
    input_schema: dict[str, object]
    strict: bool | None = None

    def chat(self) -> dict[str, object]:
        """As a chat request has it."""
        function = self.model_dump(include={"name", "description", "strict"}, exclude_none=True)
        return {"type": "function", "function": {**function, "parameters": self.input_schema}}


class ToolChoice(Shape):
    """Whether the answer must call a tool."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingParam(Shape):
    """Whether the model thinks first."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=BUDGET_TOKENS_MIN)] | None = None  # of the thoughts


class JsonFormat(Shape):
    """What the answer must match."""

    type: Literal["json_schema"]
    schema_: dict[str, object] = Field(alias="schema")


class OutputConfig(Shape):
    """How much the model thinks, and what the answer must match."""

    effort: str | None = None
    format: JsonFormat | None = None


class UserMetadata(Shape):
    """Who asks."""

    user_id: str | None = None


class CountTokensRequest(Shape):
    """The body of POST /v1/messages/count_tokens. Other parameters are those of a chat request."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, Field(min_length=1, max_length=160)]
    messages: Annotated[list[MessageParam], Field(min_length=1, max_length=MESSAGES_MAX)]
    system: str | list[TextBlock] | None = None
    tools: list[dict[str, object]] | None = None
    tool_choice: ToolChoice | None = None
    thinking: ThinkingParam | None = None
    output_config: OutputConfig | None = None

    def chat(self) -> dict[str, object]:
        """As a chat request has it. Raises Refused."""
        return {
            **(self.model_extra or {}),
            "model": self.model,
            "messages": self._messages(),
            **self._tools(),
            **self._output(),
        }

    def _messages(self) -> list[dict[str, object]]:
        found: list[dict[str, object]] = []
        if self.system:
            system = self.system if isinstance(self.system, str) else "\n\n".join(block.text for block in self.system)
            found.append({"role": "system", "content": system})
        for number, message in enumerate(self.messages):
            found += _chat_messages(message, f"messages[{number}].content")
        if self.messages[-1].role == "assistant":
            raise Refused(
                Code.UNSUPPORTED_PARAMETER,
                "messages: the last one is the assistant's, but an answer's beginning cannot be given here.",
                param="messages",
            )
        return found

    def _tools(self) -> dict[str, object]:
        if not self.tools:
            return {}
        tools = [checked(ToolParam, tool, f"tools[{number}]").chat() for number, tool in enumerate(self.tools)]
        found: dict[str, object] = {"tools": tools}
        choice = self.tool_choice
        if choice is not None:
            named = {"type": "function", "function": {"name": choice.name}}
            found["tool_choice"] = {"any": "required", "tool": named}.get(choice.type, choice.type)
            if choice.disable_parallel_tool_use is not None:
                found["parallel_tool_calls"] = not choice.disable_parallel_tool_use
        return found

    def _output(self) -> dict[str, object]:
        found: dict[str, object] = {}
        if self.thinking is not None and self.thinking.type != "adaptive":
            found["chat_template_kwargs"] = {"enable_thinking": self.thinking.type == "enabled"}
        if self.output_config is not None and self.output_config.effort:
            found["reasoning_effort"] = self.output_config.effort
        if self.output_config is not None and self.output_config.format:
            schema = {"name": "answer", "schema": self.output_config.format.schema_, "strict": True}
            found["response_format"] = {"type": "json_schema", "json_schema": schema}
        return found


class MessagesRequest(CountTokensRequest):
    """The body of POST /v1/messages."""

    max_tokens: Annotated[int, Field(ge=1)]
    stop_sequences: list[str] | None = None
    metadata: UserMetadata | None = None

    @property
    def thinking_tokens_max(self) -> int | None:
        """How long the thoughts may be."""
        thinks = self.thinking is not None and self.thinking.type == "enabled"
        return self.thinking.budget_tokens if self.thinking is not None and thinks else None

    def chat(self) -> dict[str, object]:
        """As a chat request has it. Raises Refused."""
        found = {**super().chat(), "max_tokens": self.max_tokens}
        if self.stop_sequences:
            found["stop"] = self.stop_sequences
        if self.metadata is not None and self.metadata.user_id:
            found["user"] = self.metadata.user_id
        return found


def parsed(body: Mapping[str, object]) -> MessagesRequest:
    """A checked request. Raises Refused."""
    refuse_mixed(body, "/v1/messages", CHAT_STYLE)
    request = checked(MessagesRequest, body)
    if (request.thinking_tokens_max or 0) >= request.max_tokens:
        raise Refused(
            Code.INVALID_VALUE,
            f"thinking.budget_tokens must be less than max_tokens, which is {request.max_tokens}.",
            param="thinking.budget_tokens",
        )
    return request


def _chat_messages(message: MessageParam, place: str) -> list[dict[str, object]]:
    """One message as chat messages: results of tools first, each a message of its own."""
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    blocks = [_block(message.role, block, f"{place}[{number}]") for number, block in enumerate(message.content)]
    results: list[dict[str, object]] = [
        {"role": "tool", "tool_call_id": block.tool_use_id, "content": block.text}
        for block in blocks
        if isinstance(block, ToolResult)
    ]
    texts = [{"type": "text", "text": block.text} for block in blocks if isinstance(block, TextBlock)]
    if message.role == "assistant":
        return [_assistant(blocks, texts)]
    return [*results, {"role": message.role, "content": texts}] if texts or not results else results


def _assistant(blocks: Sequence[BlockParam], texts: Sequence[object]) -> dict[str, object]:
    thoughts = "".join(block.thinking for block in blocks if isinstance(block, ThinkingBlock))
    calls = [
        {
            "id": block.id,
            "type": "function",
            "function": {"name": block.name, "arguments": orjson.dumps(block.input).decode()},
        }
        for block in blocks
        if isinstance(block, ToolUseBlock)
    ]
    found: dict[str, object] = {"role": "assistant", "content": texts or ""}
    return found | ({"reasoning_content": thoughts} if thoughts else {}) | ({"tool_calls": calls} if calls else {})


def _block(role: str, block: Mapping[str, object], place: str) -> BlockParam:
    return checked_kind(BLOCKS[role], block, place, where=f" in a message of the {role}")
