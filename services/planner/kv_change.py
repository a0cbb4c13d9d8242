"""What a change of KV bits does: bytes, chats, latency, quality. The admin API's dry run and the job's first step.

    pool of a set size (llama.cpp)   tokens stay, bytes change: freed = tokens x (bytes a token now - new)
    pool of what is left (SGLang)    bytes stay, tokens change
    live (KV planes)                 bytes stay; freed are the running chats' bytes beyond their need at the new bits

    sessions        = chats of full context that the pool holds, at most one a slot; what it holds beyond the slots is
                      said as the `chats_max` that would use it
    inter-token ms  = correction x (weights + KV of all engines with chats) / bandwidth, with as many chats of full
                      context as the pool and the slots hold, and the device's other engines as they are; bandwidth as
                      configured or measured, else bytes of a step / its time
    fits            = card - reserve - all other engines >= weights + overhead + new KV bytes

`how`: live where the engine can; `replace` where a second engine fits beside everything that runs; else `drain`.
Fails closed where the card's size is known; a card that nobody can size counts as large enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from services.config.schema import KvPolicyConfig
from services.contracts.engines import EngineState, EngineView
from services.contracts.snapshot import ModelSnapshot
from services.planner.need import Need
from services.store.registry import Registry

How = Literal["none", "live", "replace", "drain"]
GONE = (EngineState.ASLEEP, EngineState.DOWN)


@dataclass(frozen=True, slots=True)
class PlanInputs:
    """All that a plan looks at. `room_bytes`: the card without its reserve; None: its size is not known."""

    needs: Mapping[str, Need]  # every model on the same device
    engines: Mapping[str, EngineView]
    registry: Registry
    room_bytes: int | None
    bandwidth_bytes_per_s: float | None = None
    accounts: Mapping[str, ModelSnapshot] = field(default_factory=dict)  # as the scheduler sees the models


@dataclass(frozen=True, slots=True)
class KvChangePlan:
    """What a change of KV bits does. Latencies are inter-token times with every slot in use."""

    bits_now: int
    bits_new: int
    how: Annotated[How, Field(description="replace: a second engine takes over; drain: running chats finish first.")]
    words: Annotated[str, Field(examples=["The engine restarts with 4 bits after its 3 running chats have ended."])]
    fits: bool
    missing_bytes: int
    would_fit: list[int]
    bytes_per_token_now: int
    bytes_per_token_new: int
    kv_bytes_now: int
    kv_bytes_new: int
    freed_bytes: Annotated[int, Field(description="Negative: it takes more.")]
    sessions_now: Annotated[int, Field(description="Chats of full context at once: in KV memory and in a slot.")]
    sessions_new: int
    sessions_gained: int
    chats_max_possible: Annotated[
        int | None, Field(description="What `chats_max` could be raised to then; null: the slots are enough.")
    ]
    inter_token_ms_now: float | None
    inter_token_ms_new: float | None
    bots_below_floor: Annotated[list[str], Field(description="Bots whose floor forbids these bits.")]


@dataclass(frozen=True, slots=True)
class _Pool:
    tokens: int
    kv_bytes: int


def possible_bits(need: Need, seen: EngineView | None) -> list[int]:
    """KV bits that the model can be put to, high to low."""
    if seen is not None and seen.facts.live_kv_bits:
        return sorted(seen.facts.kv_bytes_per_token, reverse=True)
    return sorted(need.per_token, reverse=True)


def held_bits(seen: EngineView) -> list[int]:
    """KV bits that chats can have as the engine runs now, low to high."""
    now = int(seen.facts.kv_bits)
    return sorted(bits for bits in seen.facts.kv_bytes_per_token if bits <= now) or [now]


def unkept(kv: KvPolicyConfig, model: str, seen: EngineView | None) -> str | None:
    """Why the model cannot keep what a policy promises, so that it would turn every chat of the bot away.

    None: it can, or its engine was not heard of.
    """
    if seen is None or kv.promised_bits <= held_bits(seen)[-1]:
        return None
    held = ", ".join(map(str, held_bits(seen)))
    return (
        f"{model} holds KV at {held} bits now, this policy promises {kv.promised_bits}. "
        "Change the model's KV bits first."
    )


def per_token(need: Need, seen: EngineView | None) -> dict[int, int]:
    """Bytes a token at each precision; what the engine says of itself counts before the plan's."""
    return {**need.per_token, **(seen.facts.kv_bytes_per_token if seen else {})}


def plan_kv(scene: PlanInputs, model: str, bits: int) -> KvChangePlan:
    """Plan a change. Raises KeyError for a model or bits that are not there: ask `possible_bits` first."""
    need, seen = scene.needs[model], scene.engines.get(model)
    sizes = per_token(need, seen)
    now_bits = int(seen.facts.kv_bits) if seen else need.kv_bits
    live = seen is not None and seen.facts.live_kv_bits
    now = _now(need, seen, sizes[now_bits])
    new = _pool(need, now, sizes[now_bits], sizes[bits], live)
    context = seen.facts.context_tokens if seen else need.context_tokens
    freed = _reserved_above(scene, model, sizes[now_bits], sizes[bits]) if live else now.kv_bytes - new.kv_bytes
    slots = seen.facts.chats_max if seen else need.chats_max
    held_now, held_new = now.tokens // context, new.tokens // context
    if new.tokens == now.tokens:  # what was freed is anybody's
        held_new += max(0, freed) // (context * sizes[bits])
    sessions_now, sessions_new = min(slots, held_now), min(slots, held_new)
    possible = held_new if held_new > slots else None
    missing = _missing(scene, model, new.kv_bytes)
    how = _how(scene, model, bits == now_bits, live, new.kv_bytes)
    return KvChangePlan(
        bits_now=now_bits,
        bits_new=bits,
        how=how,
        words=_words(how, bits, missing, seen) + (_hint(slots, possible) if possible and how != "none" else ""),
        fits=missing == 0,
        missing_bytes=missing,
        would_fit=[
            b
            for b in possible_bits(need, seen)
            if not _missing(scene, model, _pool(need, now, sizes[now_bits], sizes[b], live).kv_bytes)
        ],
        bytes_per_token_now=sizes[now_bits],
        bytes_per_token_new=sizes[bits],
        kv_bytes_now=now.kv_bytes,
        kv_bytes_new=new.kv_bytes,
        freed_bytes=freed,
        sessions_now=sessions_now,
        sessions_new=sessions_new,
        sessions_gained=sessions_new - sessions_now,
        chats_max_possible=possible,
        inter_token_ms_now=_latency_ms(scene, model, sessions_now * context * sizes[now_bits]),
        inter_token_ms_new=_latency_ms(scene, model, min(slots, new.tokens // context) * context * sizes[bits]),
        bots_below_floor=bots_below(scene.registry, model, bits),
    )


def _now(need: Need, seen: EngineView | None, size: int) -> _Pool:
    if seen is not None:
        return _Pool(seen.facts.kv_budget_bytes // size, seen.facts.kv_budget_bytes)
    return _Pool(need.tokens_min(need.kv_bits), need.tokens_min(need.kv_bits) * size)


def _pool(need: Need, now: _Pool, size_now: int, size_new: int, live: bool) -> _Pool:
    if size_new == size_now:
        return now
    if live or need.pool_tokens is None:
        return _Pool(now.kv_bytes // size_new, now.kv_bytes)
    return _Pool(now.tokens, now.tokens * size_new)


def _reserved(scene: PlanInputs, model: str) -> int:
    return scene.accounts[model].reserved_bytes if model in scene.accounts else 0


def _reserved_above(scene: PlanInputs, model: str, size_now: int, size_new: int) -> int:
    """Bytes of running chats that a change gives free; negative where it takes more."""
    reserved = _reserved(scene, model)
    return reserved - reserved * size_new // size_now


def _taken_by(scene: PlanInputs, model: str) -> int:
    """What a model's engine holds now, asleep or not heard of: what it would hold."""
    seen = scene.engines.get(model)
    if seen is None:
        need = scene.needs[model]
        return need.bytes_min(need.kv_bits)
    return seen.facts.weight_bytes + seen.facts.overhead_bytes + seen.facts.kv_budget_bytes


def _total(scene: PlanInputs, model: str, kv_bytes: int) -> int:
    seen, need = scene.engines.get(model), scene.needs[model]
    fixed = seen.facts.weight_bytes + seen.facts.overhead_bytes if seen else need.fixed_bytes
    return fixed + kv_bytes


def _missing(scene: PlanInputs, model: str, kv_bytes: int) -> int:
    if scene.room_bytes is None:
        return 0
    others = sum(_taken_by(scene, name) for name in scene.needs if name != model)
    return max(0, others + _total(scene, model, kv_bytes) - scene.room_bytes)


def _how(scene: PlanInputs, model: str, same: bool, live: bool, kv_bytes: int) -> How:
    seen = scene.engines.get(model)
    if same:
        return "none"
    if live:
        return "live"
    if seen is None or seen.report.state is not EngineState.READY or scene.room_bytes is None:
        return "drain"
    all_now = sum(_taken_by(scene, name) for name in scene.needs)
    return "replace" if all_now + _total(scene, model, kv_bytes) <= scene.room_bytes else "drain"


def _hint(slots: int, possible: int) -> str:
    return f" The memory then holds {possible} sessions of full context: raise chats_max from {slots} to {possible}."


def _words(how: str, bits: int, missing: int, seen: EngineView | None) -> str:
    if missing:
        return f"At {bits} bits {missing:,} bytes are missing on the card."
    running = seen.report.running if seen else 0
    chats = f"{running} running {'chat' if running == 1 else 'chats'}"
    return {
        "none": f"The model has {bits} bits already.",
        "live": f"The engine changes to {bits} bits at once, while its {chats} go on.",
        "replace": f"A second engine with {bits} bits starts beside the first, which ends after its {chats}.",
        "drain": f"The engine restarts with {bits} bits after its {chats}; new chats wait in the queue meanwhile.",
    }[how]


def _latency_ms(scene: PlanInputs, model: str, kv_bytes: int) -> float | None:
    """Inter-token time with so many KV bytes in use here, the other engines as they are. None: nothing was measured."""
    bandwidth = scene.bandwidth_bytes_per_s or _bandwidth_seen(scene)
    if not bandwidth or model not in scene.engines:
        return None
    read = 0
    for name, seen in scene.engines.items():
        busy = kv_bytes if name == model else _reserved(scene, name)
        if busy and (name == model or seen.report.state not in GONE):
            read += seen.facts.weight_bytes + busy
    known = scene.bandwidth_bytes_per_s and model in scene.accounts
    correction = scene.accounts[model].correction if known else 1.0
    return max(1.0, correction) * read / bandwidth * 1000 if kv_bytes else None


def _bandwidth_seen(scene: PlanInputs) -> float | None:
    """Bytes a second as engines' own latencies show: an engine that shares the device shows the whole round's time."""
    times = [seen.report.inter_token_s for seen in scene.engines.values() if seen.report.inter_token_s]
    if not times:
        return None
    read = sum(
        seen.facts.weight_bytes + seen.report.step_kv_bytes
        for seen in scene.engines.values()
        if seen.report.inter_token_s
    )
    return read / max(times)


def bots_below(registry: Registry, model: str, bits: int) -> list[str]:
    """Bots of a model whose floor is above `bits`."""
    return [
        f"{tenant}/{name}"
        for tenant, record in registry.tenants.items()
        for name, bot in record.config.bots.items()
        if bot.model == model and bot.kv.promised_bits > bits
    ]


def bots_of(registry: Registry, model: str) -> Sequence[str]:
    """All bots of a model."""
    return [
        f"{tenant}/{name}"
        for tenant, record in registry.tenants.items()
        for name, bot in record.config.bots.items()
        if bot.model == model
    ]
