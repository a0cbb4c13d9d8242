"""What engines say of themselves. Memory is bytes, times are seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from services.contracts.chats import KvBits
from services.contracts.devices import CPU, Sharing


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
    engine: str  # a name of ENGINE_KINDS
    weight_bytes: int
    overhead_bytes: int  # activations, graphs, runtime; measured at start
    kv_budget_bytes: int  # the KV pool's size
    kv_bytes_per_token: Mapping[int, int]  # KV bits -> bytes, for the bits this engine can hold now
    context_tokens: int  # longest prompt + answer
    chats_max: int  # chats at once
    kv_bits: KvBits  # what it starts chats with
    live_kv_bits: bool = False  # sessions may differ in bits and change while they run
    device: str = CPU  # id of what it runs on; see contracts.devices
    sharing: Sharing = Sharing.TURNS  # with the device's other engines, as was seen when it started
    routed_bytes: int = 0  # weights of routed experts, part of weight_bytes
    routed_part: float = 1.0  # of them that one token is computed by
    layers: int = 0  # that a step computes one after another; 0: unknown


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
class EngineView:
    """One engine as its worker last described it."""

    facts: EngineFacts
    report: EngineReport


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


def provider_model(name: str) -> str:
    """What an overflow provider is called where models are named: no model's name has a colon."""
    return f"overflow:{name}"


def provider_of(model: str) -> str:
    """The provider that a name stands for; "" where it is a model of this host."""
    return model.removeprefix("overflow:") if is_provider(model) else ""


def is_provider(model: str) -> bool:
    """Whether a name is that of an overflow provider."""
    return model.startswith("overflow:")
