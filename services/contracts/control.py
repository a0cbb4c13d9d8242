"""What a model's worker is asked for between chats."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ControlMessage:
    """One message on a worker's control channel. One that is lost costs time only: a cancellation and a command are
    stored, and the scheduler repeats the others."""

    cancel: str = ""  # chat that its client gave up
    command: str = ""  # id of a stored command
    wake: bool = False
    demote: str = ""  # chat to lower to `bits`
    bits: int = 0
