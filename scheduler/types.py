"""The words the rooms share: tickets, engine facts, decisions.

Everything here is a frozen value. Times are seconds; `*_s` on a ticket are Unix time, so that
a ticket keeps its meaning across processes and restarts. Memory is bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum


class KvBits(IntEnum):
    """Bits that each cached key and value takes."""

    FOUR = 4
    EIGHT = 8
    SIXTEEN = 16


class Task(StrEnum):
    """What a chat asks for. The article's rule follows it: maths and logic at 8 bits, creative at 4."""

    MATHS = "maths"
    LOGIC = "logic"
    CODE = "code"
    FACTS = "facts"
    SUPPORT = "support"
    COMPLAINT = "complaint"
    CREATIVE = "creative"


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


@dataclass(frozen=True, slots=True)
class Ticket:
    """One chat that asks to be let in. Written by the gateway, read by the scheduler and the worker."""

    chat: str  # unguessable id; also the reply stream's name
    request: str  # x-request-id, for logs
    tenant: str
    bot: str  # "tenant/bot"
    model: str
    session: str  # unique within the tenant
    prompt_tokens: int
    max_tokens: int  # what the answer may grow to
    kv_bits: KvBits  # wanted
    kv_bits_floor: KvBits
    task: Task
    created_s: float
    deadline_s: float  # past it the chat is answered with a 503
    priority: int = 0  # higher goes first within a tenant
    demotable: bool = False  # may be let in, or later lowered, to `kv_bits_floor`
    overflow: bool = False  # the bot allows another provider
    overflow_to: str | None = None  # its name in the configuration
    opening: bool = False  # of a conversation with no answer yet

    @property
    def tokens_max(self) -> int:
        """Tokens of KV that the chat may come to hold."""
        return self.prompt_tokens + self.max_tokens


class EngineState(StrEnum):
    """Where an engine is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    ASLEEP = "asleep"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What does not change while an engine runs with one set of flags."""

    model: str
    engine: str  # "llamacpp" | "sglang"
    weight_bytes: int
    overhead_bytes: int  # activations, graphs, runtime; measured at start
    kv_budget_bytes: int  # the KV pool's size
    kv_bytes_per_token: Mapping[int, int]  # KV bits -> bytes, for the bits this engine can hold now
    context_tokens: int  # longest prompt + answer
    chats_max: int  # chats at once
    kv_bits: KvBits  # what it starts chats with
    live_kv_bits: bool = False  # sessions may differ in bits and change while they run


@dataclass(frozen=True, slots=True)
class EngineReport:
    """What an engine says of itself about once a second. Older than a bound, it counts as full."""

    model: str
    at_s: float
    state: EngineState
    kv_used_bytes: int = 0  # held by running chats
    kv_cached_bytes: int = 0  # prefixes kept for reuse; given up when room is short
    running: int = 0
    queued: int = 0
    inter_token_s: float | None = None  # median over the last reports; None: nothing ran
    prefill_tokens_per_s: float | None = None
    prefill_tokens: int = 0  # that this speed was seen over; 0: unknown
    prefill_prompts: int = 0  # prompts that these tokens were of; 0: unknown
    step_kv_bytes: int = 0  # KV bytes that those steps read, for the bandwidth model
    up_since_s: float = 0.0  # when it came up, with nothing cached


@dataclass(frozen=True, slots=True)
class Learned:
    """What a scheduler found out about one engine by watching it, for whoever takes over."""

    model: str
    correction: float = 1.0  # of step times
    prefill_tokens_per_s: float | None = None
    turn_hits: float = 0.0  # part of a session's earlier turn that was cached
    turns: int = 0  # that this is the mean of
    shared_tokens: Mapping[str, Sequence[int]] = field(default_factory=dict)  # bot -> cached, of its last new sessions
    up_since_s: float = 0.0  # the engine whose cache this was


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """What NVML says of the device's memory."""

    at_s: float
    total_bytes: int
    used_bytes: int  # by every process on it
    models: Collection[str] | None = None  # whose engines are on it; None: all


@dataclass(frozen=True, slots=True)
class Usage:
    """What a chat took, settled."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    kv_bits: KvBits
    kv_byte_seconds: float = 0.0
    queue_s: float = 0.0
    first_token_s: float | None = None
    overflow_microusd: int = 0  # what another provider takes for it
    cached_known: bool = True  # False: it ended before its engine said what was cached
    ran_s: float | None = None  # since its worker took it, by a clock that nobody sets; None: not known


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
    numbers: Mapping[str, float | int | str] = field(default_factory=dict)


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
