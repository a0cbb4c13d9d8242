"""Why a chat waits, runs, ended or was refused: the scheduler's answer, as words and as numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from services.contracts.decisions import Number


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Everything but `chat` and `state` is None where it does not apply. Bytes, seconds, tokens."""

    chat: str
    state: Literal["waiting", "running", "settled", "refused", "cancelled", "unknown"]
    why: str | None = None  # one or two sentences
    reason: str | None = None
    outcome: str | None = None
    numbers: Mapping[str, Number] = field(default_factory=dict)  # that decided it; which depends on the reason
    tenant: str | None = None
    bot: str | None = None
    model: str | None = None
    session: str | None = None
    task: str | None = None
    prompt_tokens: int | None = None
    max_tokens: int | None = None
    kv_bits_wanted: int | None = None
    kv_bits_floor: int | None = None
    kv_bits: int | None = None
    waited_s: float | None = None
    deadline_in_s: float | None = None
    position: int | None = None  # 1: next in the tenant's queue
    expected_wait_s: float | None = None
    retry_after_s: float | None = None
    turn_of_admitted_session: bool | None = None
    tenant_counter: float | None = None
    overtaken: int | None = None
    model_kept_for: str | None = None  # another chat that the model is kept free for
    reserved_bytes: int | None = None
    running_s: float | None = None
    ended_ago_s: float | None = None
    completion_tokens: int | None = None
