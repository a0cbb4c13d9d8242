"""The messages of a chat request."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.parameters import MESSAGE, PART, described


class Part(BaseModel):
    """A piece of a message's content."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=described(PART))

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One message. `content` is text, or parts of text."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=described(MESSAGE))

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Part], Field(min_length=1, max_length=1024)]

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
