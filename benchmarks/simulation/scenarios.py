"""The runs behind the figures. Each returns plain numbers; the plots are made of the same.

`H100` is as this project measured one (2.1 TB/s while decoding, 40,450 prompt tokens a second, both with a 7B shape);
`CARD_24GB` is a consumer card's data sheet with a tenth off. Each engine is an 8B model with 4-bit weights. Steps take
1.15 times what the scheduler's formula says, which it has to find out. In space the same cards have the bandwidth of a
copy, of which one engine alone uses a part, so that steps alone take as long as in turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from benchmarks.simulation.baselines import Bunkhouse, Fifo, LeastKv, Subject, TokenBucket
from benchmarks.simulation.figures import goodput, target_breaks, ttft_s
from benchmarks.simulation.gpu import Devices
from benchmarks.simulation.traffic import DAY_S, TenantLoad
from benchmarks.simulation.world import World
from gateway.kv_policies import policy
from scheduler.settings import ModelTargets, SchedulerSettings
from services.contracts.chats import KvBits
from services.contracts.devices import Sharing, gpu
from services.contracts.engines import EngineFacts
from services.evidence.statistics import percentile

GIB = 2**30
GROUP = 64  # channels that share a scale and a minimum, fp16 each


@dataclass(frozen=True)
class Hardware:
    """A device: bytes, bytes a second, prompt tokens a second."""

    total_bytes: int
    bandwidth: float
    prefill_tokens_per_s: float
    friction: float = 1.15
    sharing: Sharing = Sharing.TURNS

    def shared(self, sharing: Sharing) -> Hardware:
        """The same card, in turns or in space."""
        copies = COPY if sharing is Sharing.SPACE else 1.0
        return replace(self, bandwidth=self.bandwidth * copies, friction=self.friction * copies, sharing=sharing)


COPY = 2.9 / 2.1  # what a copy moves on an H100, against what one engine's decoding reads
H100 = Hardware(80 * GIB, 2.1e12, 40_450.0)
CARD_24GB = Hardware(24 * GIB, 0.9e12, 9_000.0)


def kv_bytes(values_per_token: int, bits: int) -> int:
    """Bytes a token, with scales: `values_per_token` keys and values over all layers."""
    return values_per_token * bits // 8 + (0 if bits == 16 else values_per_token // GROUP * 4)


@dataclass(frozen=True)
class Shape:
    """A model: weights at 4 bits, values cached per token."""

    name: str
    weight_bytes: int
    values_per_token: int


LLAMA_8B = Shape("llama-3.1-8b", int(5.7e9), 32 * 8 * 128 * 2)


def engines(
    hardware: Hardware, shape: Shape, count: int, bits: Iterable[int], chats_max: int = 256
) -> list[EngineFacts]:
    """`count` engines that split what weights and overhead leave of the first device, 5% held back."""
    overhead = int(1.2e9)
    pool = (int(hardware.total_bytes * 0.95) - count * (shape.weight_bytes + overhead)) // count
    held = {int(value): kv_bytes(shape.values_per_token, value) for value in bits}
    return [
        EngineFacts(
            model=f"m{number}",
            engine="sglang",
            weight_bytes=shape.weight_bytes,
            overhead_bytes=overhead,
            kv_budget_bytes=pool,
            kv_bytes_per_token=held,
            context_tokens=16_384,
            chats_max=chats_max,
            kv_bits=KvBits(max(held)),
            live_kv_bits=len(held) > 1,
            device=gpu(0),
            sharing=hardware.sharing,
        )
        for number in range(count)
    ]


def settings(facts: Iterable[EngineFacts], targets: ModelTargets, hardware: Hardware) -> SchedulerSettings:
    """The scheduler's defaults, with these targets for every model."""
    facts = list(facts)
    return SchedulerSettings(
        targets={one.model: targets for one in facts},
        bandwidth_bytes_per_s={one.device: hardware.bandwidth for one in facts},
    )


def run(
    subject: Subject,
    facts: list[EngineFacts],
    loads: Iterable[TenantLoad],
    *,
    seed: int,
    seconds: float,
    hardware: Hardware = H100,
    watch: Callable[[World], None] | None = None,
) -> World:
    """One run of a subject."""
    devices = Devices(facts, hardware.bandwidth, hardware.prefill_tokens_per_s, hardware.friction)
    world = World(subject, devices, loads, seed, watch)
    world.run(seconds)
    return world


NEIGHBOUR_TARGETS = ModelTargets(inter_token_ms_max=100.0)


def neighbours(devices: int, beside: bool, *, seed: int, seconds: float, sharing: Sharing = Sharing.TURNS) -> World:
    """A quiet model's chats, alone or beside a busy model's, on one device or each on its own. The two models have the
    same pools either way."""
    hardware = CARD_24GB.shared(sharing)
    facts = [
        replace(one, device=gpu(number % devices))
        for number, one in enumerate(engines(hardware, LLAMA_8B, 2, (8,), chats_max=64))
    ]
    loads = [TenantLoad("quiet", ("m0",), 0.2, turns=1.0)]
    if beside:
        loads.append(TenantLoad("busy", ("m1",), 3.0, turns=1.0))
    subject = Bunkhouse(settings(facts, NEIGHBOUR_TARGETS, hardware), facts)
    return run(subject, facts, loads, seed=seed, seconds=seconds, hardware=hardware)


BITS = (4, 8, 16)  # what the engines can hold; the baselines use 16 alone
FLOOD = 32
FLOOD_TARGETS = ModelTargets(inter_token_ms_max=25.0, first_token_s_max=5.0)


def flood(
    kind: str, flooded: bool, *, seed: int, seconds: float, variant: str = "plain", sharing: Sharing = Sharing.TURNS
) -> list[float]:
    """A quiet tenant's times to first token, alone or beside a tenant that sends 32 times as many chats.

    plain          single-turn chats; one in twenty of the quiet tenant's has a document of some 6,000 tokens
    documents      the flood's have, too
    conversations  three turns a session, documents on both sides: the flood also pushes cached prefixes out
    """
    hardware = H100.shared(sharing)
    facts = engines(hardware, LLAMA_8B, 2, BITS, chats_max=64)
    turns, per_s = (3.0, 0.25) if variant == "conversations" else (1.0, 0.75)
    part = 0.0 if variant == "plain" else 0.05
    loads = [_chatter("quiet", per_s, turns, 0.05)]
    if flooded:
        loads.append(_chatter("flood", per_s * FLOOD, turns, part))
    subjects: Mapping[str, Callable[[], Subject]] = {
        "bunkhouse": lambda: Bunkhouse(settings(facts, FLOOD_TARGETS, hardware), facts),
        "fifo": lambda: Fifo(facts),
        "token_bucket": lambda: TokenBucket(facts, tokens_per_s=6000.0),  # half of what the model can do, to each
    }
    world = run(subjects[kind](), facts, loads, seed=seed, seconds=seconds, hardware=hardware)
    return ttft_s(world.chats.values(), "quiet")


def _chatter(name: str, per_s: float, turns: float, document_part: float) -> TenantLoad:
    return TenantLoad(
        name,
        ("m0",),
        per_s,
        turns=turns,
        system_tokens=400,
        answer_tokens=250.0,
        document_part=document_part,
        deadline_s=30.0,
        bits_available=BITS,
    )


def few_slots(slots: int, floods: int, *, seed: int, seconds: float) -> list[float]:
    """Times to first token of a tenant with a chat each 50 s on engines with few slots, alone or under floods."""
    facts = engines(H100, LLAMA_8B, 2, BITS, chats_max=slots)
    loads = [_chatter("quiet", 0.02, 1.0, 0.0)]
    loads += [_chatter(f"flood-{number}", max(2.0, 0.375 * slots), 1.0, 0.0) for number in range(floods)]
    world = run(Bunkhouse(settings(facts, FLOOD_TARGETS, H100), facts), facts, loads, seed=seed, seconds=seconds)
    return ttft_s(world.chats.values(), "quiet")


LOAD_TARGETS = ModelTargets(inter_token_ms_max=30.0, first_token_s_max=5.0)


def overload(
    kind: str, sessions_per_s: float, *, seed: int, seconds: float, sharing: Sharing = Sharing.TURNS
) -> tuple[float, float, float]:
    """(goodput, offered, part of broken targets) over four tenants and two models; both in answer tokens a second.

    Chats wait four seconds at most, and want their first token within five.
    """
    hardware = H100.shared(sharing)
    facts = engines(hardware, LLAMA_8B, 2, BITS, chats_max=128)
    loads = [
        TenantLoad(
            f"t{number}",
            (f"m{number % 2}",),
            sessions_per_s / 4,
            turns=1.0,
            system_tokens=600,
            document_part=0.03,
            answer_tokens=200.0,
            deadline_s=4.0,
            bits_available=BITS,
        )
        for number in range(4)
    ]
    subjects: Mapping[str, Callable[[], Subject]] = {
        "bunkhouse": lambda: Bunkhouse(settings(facts, LOAD_TARGETS, hardware), facts),
        "fifo": lambda: Fifo(facts),
        "least_kv": lambda: LeastKv(facts),
    }
    world = run(subjects[kind](), facts, loads, seed=seed, seconds=seconds, hardware=hardware)
    chats = [chat for chat in world.chats.values() if seconds / 4 <= chat.ticket.created_s < seconds]
    offered = sum(chat.completion_tokens for chat in chats) / (seconds * 0.75)
    return goodput(chats, LOAD_TARGETS, seconds / 4, seconds), offered, target_breaks(chats, LOAD_TARGETS)


SESSION_TARGETS = ModelTargets(inter_token_ms_max=100.0, first_token_s_max=30.0)


def sessions(name: str, *, seed: int, seconds: float, sharing: Sharing = Sharing.TURNS) -> tuple[float, float]:
    """(chats that run at once, within target; part that broke it) with more asking than fit, under a KV policy."""
    bits = (16,) if name == "fixed" else (4, 8)
    hardware = H100.shared(sharing)
    facts = engines(hardware, LLAMA_8B, 4, bits)
    loads = [
        TenantLoad(
            f"t{number}",
            (f"m{number}",),
            6.0,
            turns=1.0,
            system_tokens=1000,
            answer_tokens=900.0,
            answer_spread=0.3,
            max_tokens=1500,
            deadline_s=60.0,
            policy=policy(name),
            bits_available=bits,
        )
        for number in range(4)
    ]
    counts: list[tuple[float, int]] = []

    def count(world: World) -> None:
        counts.append((world.gpu.now_s, sum(len(engine.running) for engine in world.gpu.engines.values())))

    subject = Bunkhouse(settings(facts, SESSION_TARGETS, hardware), facts)
    world = run(subject, facts, loads, seed=seed, seconds=seconds, hardware=hardware, watch=count)
    broken = target_breaks(list(world.chats.values()), SESSION_TARGETS)
    steady = [(at, n) for at, n in counts if seconds / 3 <= at <= seconds]
    area = sum((b[0] - a[0]) * a[1] for a, b in pairwise(steady))
    return area / (steady[-1][0] - steady[0][0]) * (1.0 - broken), broken


def models_held(bits: int, sessions_each: int = 8, tokens_each: int = 8192) -> int:
    """8B models with 4-bit weights that fit 24 GB, each with its sessions at full context. Plain arithmetic."""
    one = LLAMA_8B.weight_bytes + int(0.8e9)  # the engine's overhead without CUDA graphs for large batches
    one += sessions_each * tokens_each * kv_bytes(LLAMA_8B.values_per_token, bits)
    return int(24 * GIB * 0.97) // one


DAY_TARGETS = ModelTargets(inter_token_ms_max=50.0, first_token_s_max=20.0)


def day_loads(scale: float = 1.0) -> list[TenantLoad]:
    """Support traffic: a shop by day, a bank with documents, a carrier in bursts, and a flood from the morning on."""
    return [
        TenantLoad("shop", ("m0", "m1"), 0.6 * scale, day=True),
        TenantLoad("bank", ("m1",), 0.1 * scale, day=True, document_part=0.3, policy=policy("finance")),
        TenantLoad("carrier", ("m1",), 0.15 * scale, burst=10.0, policy=policy("pressure")),
        TenantLoad("flood", ("m0",), 3.0 * scale, flood_from_s=DAY_S * 0.3, turns=1.5, think_s=2.0),
    ]


def day(
    *,
    seed: int,
    seconds: float,
    scale: float = 1.0,
    watch: Callable[[World], None] | None = None,
    sharing: Sharing = Sharing.TURNS,
) -> World:
    """Two models and four tenants on a 24 GB card, through (part of) a day."""
    hardware = CARD_24GB.shared(sharing)
    facts = engines(hardware, LLAMA_8B, 2, (4, 8), chats_max=64)
    subject = Bunkhouse(settings(facts, DAY_TARGETS, hardware), facts)
    return run(subject, facts, day_loads(scale), seed=seed, seconds=seconds, hardware=hardware, watch=watch)


def ratio_p99(flooded: Iterable[float], alone: Iterable[float]) -> float:
    """p99 against p99."""
    return percentile(flooded, 0.99) / percentile(alone, 0.99)
