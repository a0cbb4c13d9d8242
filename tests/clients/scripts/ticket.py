"""The typed answer that several scripts ask for; their clients bring pydantic."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class Ticket(BaseModel):
    """A support ticket."""

    topic: Literal["repair", "return"]
    urgent: bool


class Quote(BaseModel):
    """What a repair costs, and how sure that is."""

    sure: float = Field(ge=0.5, lt=1)
    price: float = Field(gt=0, le=80, multiple_of=0.25)
    hours: int = Field(ge=1, le=8)
