"""The typed answer that several scripts ask for; their clients bring pydantic."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class Ticket(BaseModel):
    """A support ticket."""

    topic: Literal["repair", "return"]
    urgent: bool
