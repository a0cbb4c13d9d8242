"""What the scheduler decides, and what an admitted chat holds. Memory is bytes, times are seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from services.contracts.chats import KvBits

Number = float | int | str


class Outcome(StrEnum):
    """What the scheduler says to a ticket."""

    ADMIT = "admit"
    ADMIT_DEMOTED = "admit_demoted"
    WAIT = "wait"
    OVERFLOW = "overflow"
    REJECT = "reject"


class Reason(StrEnum):
    """Why, as one label. `explain` adds the numbers."""

    ROOM = "room"  # there is room: the ordinary admission
    KV_MEMORY = "kv_memory"
    BANDWIDTH = "bandwidth"
    FIRST_TOKEN = "first_token"  # noqa: S105  (a latency target, not a secret)
    CHATS_MAX = "chats_max"  # the engine's slots
    TENANT_LIMIT = "tenant_limit"
    TELEMETRY_STALE = "telemetry_stale"
    MODEL_DOWN = "model_down"
    MODEL_ASLEEP = "model_asleep"
    NEVER_FITS = "never_fits"  # larger than the whole budget
    KV_BITS = "kv_bits"  # the engine cannot hold KV at the ticket's floor
    DEADLINE = "deadline"
    QUEUE_FULL = "queue_full"


@dataclass(slots=True)
class Decision:
    """What was decided for one ticket, with the numbers that decided it. Never changed: not frozen, since one is made
    at each look at a ticket, and a frozen one takes four times as long to make."""

    chat: str
    outcome: Outcome
    reason: Reason
    kv_bits: KvBits
    reserve_bytes: int = 0
    retry_after_s: float | None = None
    position: int | None = None  # 1 = next in the tenant's queue
    expected_wait_s: float | None = None
    numbers: Mapping[str, Number] = field(default_factory=dict)


@dataclass(slots=True)
class Reservation:
    """KV bytes that one admitted chat holds in the ledger. Never changed, as a Decision."""

    chat: str
    tenant: str
    session: str
    model: str
    kv_bits: KvBits
    reserved_bytes: int
    admitted_s: float
    tokens_max: int
    demotable: bool = False
    kv_bits_floor: KvBits = KvBits.SIXTEEN
