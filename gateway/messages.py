"""The messages of a chat request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from gateway.outcomes import Code, Refused
from gateway.parameters import CALL, CALLED_FUNCTION, MESSAGE, PART, described

CALLS_MAX = 128  # in one message
NESTING_MAX = 32  # of a call's arguments, and of schemas


class Part(BaseModel):
    """A piece of a message's content."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=described(PART))

    type: Literal["text"]
    text: str


class MessageFunction(BaseModel):
    """What an earlier answer called. `arguments` is JSON text, as the model wrote it."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=described(CALLED_FUNCTION))

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    arguments: str = ""

    @property
    def parsed(self) -> dict[str, object]:
        """The arguments as an object."""
        return arguments_of(self.arguments)


class MessageToolCall(BaseModel):
    """A tool call of an earlier answer."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=described(CALL))

    id: Annotated[str, Field(min_length=1, max_length=256)]
    type: Literal["function"] = "function"
    function: MessageFunction


class Message(BaseModel):
    """One message. `content` is text, or parts of text; an assistant's may be null."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=described(MESSAGE))

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[Part], Field(min_length=1, max_length=1024)] | None = None
    tool_calls: Annotated[list[MessageToolCall], Field(max_length=CALLS_MAX)] | None = None
    tool_call_id: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    reasoning_content: str | None = None
    refusal: str | None = None  # of another model's answer; stands for its content

    @property
    def text(self) -> str:
        if self.content is None:
            return self.refusal or ""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)

    @property
    def chars(self) -> int:
        """At least so many characters of the prompt come from it."""
        calls = sum(len(call.function.name) + len(call.function.arguments) for call in self.tool_calls or ())
        return len(self.text) + calls


def check_messages(messages: Sequence[Message]) -> None:
    """What each role needs. Raises Refused."""
    for number, message in enumerate(messages):
        place = f"messages[{number}]"
        if message.content is None and message.role != "assistant":
            _refuse_absent_content(message, place)
        if message.role == "tool" and message.tool_call_id is None:
            raise Refused(
                Code.MISSING_PARAMETER,
                f"{place}: a message with role 'tool' needs the tool_call_id of the call that it answers.",
                param=f"{place}.tool_call_id",
            )
        if message.tool_calls and message.role != "assistant":
            raise Refused(Code.INVALID_VALUE, f"{place}.tool_calls: only an assistant's message has some.", param=place)
    if not any(message.text.strip() or message.tool_calls for message in messages):
        raise Refused(Code.INVALID_VALUE, "The messages contain no text.", param="messages")


def _refuse_absent_content(message: Message, place: str) -> None:
    param = f"{place}.content"
    if "content" in message.model_fields_set:
        raise Refused(Code.INVALID_VALUE, f"{param}: only an assistant's may be null.", param=param)
    raise Refused(Code.MISSING_PARAMETER, f"Missing required parameter: {param}.", param=param)


def arguments_of(text: str) -> dict[str, object]:
    """A call's arguments as an object; an empty text is an empty one.

    Models break JSON, and answers are cut. What is not an object, or nested too deep, is kept as it was written:
    {"arguments": text}.
    """
    try:
        value = orjson.loads(text) if text.strip() else {}
    except orjson.JSONDecodeError:
        value = None
    return value if isinstance(value, dict) and depth_of(value) <= NESTING_MAX else {"arguments": text}


def depth_of(value: object) -> int:
    """How deep lists and objects of parsed JSON are nested; 0 for a scalar. Looks a level at a time, so that no depth
    exhausts the stack."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return depth
