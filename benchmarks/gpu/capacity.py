"""`python -m benchmarks.gpu.capacity --tokenizer FOLDER`: what a card of a given size holds at 16, 8 and 4 KV bits.

Four parts, each with stock SGLang at 16 bits (bf16, FIFO, a partition of its own: the peer), stock SGLang at 8 (fp8)
and KV planes at 4, everything else equal. All memory is kept under `--card-gib` (in the last part `--large-gib`) by the
size of the KV pool. All engines of a part start side by side (the real card must hold them), those of the last part one
precision at a time:

    sessions   one Qwen2.5-7B AWQ; as many sessions of `--context` tokens as the pool holds, then bisection down to
               the inter-token target
    models     as many Qwen2.5-7B AWQ as fit, each with `--each` sessions of `--context` tokens; at each precision
               all sessions of all models decode at once
    qwq        one QwQ-32B AWQ; the longest chat, and that one chat is had
    mix        one QwQ-32B AWQ and as many Qwen2.5-7B AWQ as fit beside it on the whole card, else as `models`

Bytes are those of the weights, the pool, and of NVML for each engine's processes, after a first prompt: what a prompt's
activations took stays with the process. `--device cpu --weights FOLDER` is a
dry run of the programme on a machine without a GPU; only its arithmetic means anything there.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.gpu import shapes
from benchmarks.gpu.load import ms
from benchmarks.gpu.workers import FLAGS, off_pct, used_bytes
from benchmarks.output import write
from services.config.schema import ModelConfig
from services.contracts.chats import KvBits, Sampling
from services.contracts.engines import EngineFacts
from services.devices.telemetry import GpuSource
from services.engines.base import EngineRequest
from services.engines.sglang import SglangEngine
from services.engines.sglang_flags import PREFILL_CHUNK
from services.engines.sglang_server import SglangOptions
from services.evidence.prove.bisection import search
from services.evidence.prove.memory import Sizes, held
from services.evidence.statistics import percentile
from services.kvplanes.config import KVPlanesConfig
from services.model_files.model_config import read_model_config
from services.planner.need import need_of

GIB = 2**30
BITS = (16, 8, 4)
PARTS = ("sessions", "models", "qwq", "mix")
ANSWER = 64  # tokens
PIECE = 8  # tokens that SGLang sends at once, so that this client is not what is measured
GPU_FLAGS = ["--load-format", "dummy", "--cuda-graph-backend-prefill=disabled", "--mem-fraction-static", "0.97"]
SPARE = 2  # sessions' worth of pool that SGLang does not fill, so that answers can grow
WARM = 2  # sessions of a first trial, in which kernels compile and activations take their memory
PLANES = KVPlanesConfig()
NOTHING: Mapping[str, Any] = {}
VOCABULARY = 10_000  # token ids that prompts are drawn from


@dataclass(frozen=True, slots=True)
class Case:
    """One engine to start. `pool_tokens` counts tokens at `bits`."""

    name: str
    weights: Path
    bits: int
    pool_tokens: int
    chats: int
    context: int
    batches: tuple[int, ...]  # that are tried, so that a CUDA graph is made of each


@dataclass(frozen=True, slots=True)
class Up:
    """A started engine."""

    case: Case
    engine: SglangEngine
    facts: EngineFacts


def engine_of(case: Case, folder: Path, options: argparse.Namespace) -> SglangEngine:
    """SGLang, with KV planes where stock SGLang has no such precision."""
    gpu = options.device == "cuda"
    flags = [*FLAGS, "--stream-interval", str(PIECE)]
    if gpu:
        flags += [
            *GPU_FLAGS,
            "--cuda-graph-bs-decode",
            *map(str, sorted({1, min(WARM, case.chats), case.chats, *case.batches})),
        ]
    built = SglangOptions(
        case.weights,
        folder / f"{case.name}.log",
        KvBits.EIGHT if case.bits == 4 else KvBits(case.bits),
        case.context + ANSWER + 8,
        case.chats,
        python=Path(options.python or sys.executable),
        device=options.device,
        kv_tokens=case.pool_tokens,
        kvplanes=case.bits == 4,
        attention_backend="triton" if gpu else None,
        flags=tuple(flags),
    )
    return SglangEngine(case.name, built)


@asynccontextmanager
async def started(cases: Sequence[Case], folder: Path, options: argparse.Namespace) -> AsyncIterator[list[Up]]:
    """All of them side by side: an engine's start is mostly imports."""
    async with AsyncExitStack() as stack:
        engines = [engine_of(case, folder, options) for case in cases]

        async def stop() -> None:
            await asyncio.gather(*(engine.stop() for engine in engines))

        stack.push_async_callback(stop)
        facts = await asyncio.gather(
            *(engine.start(_say(case.name)) for case, engine in zip(cases, engines, strict=True))
        )
        yield [Up(case, engine, fact) for case, engine, fact in zip(cases, engines, facts, strict=True)]


def _say(name: str) -> Any:
    return lambda words: print(f"{name}: {words}", file=sys.stderr, flush=True)


async def session(up: Up, number: str, tokens: int, pieces: list[tuple[float, int]], max_tokens: int = ANSWER) -> None:
    """One answer to a prompt of random tokens; when each piece came, and how many tokens it had."""
    draw = random.Random(f"{up.case.name} {number}")
    request = EngineRequest(
        chat=f"{up.case.name}-{number}-{time.monotonic_ns()}",
        prompt=[draw.randrange(100, VOCABULARY) for _ in range(tokens)],
        max_tokens=max_tokens,
        sampling=Sampling(temperature=0.0),
        salt=number,  # no prefix is shared: each session takes memory of its own
        kv_bits=KvBits(up.case.bits),
    )
    async for piece in up.engine.stream(request):
        if piece.tokens:
            pieces.append((time.perf_counter(), piece.tokens))  # noqa: PERF401  (`pieces` is read when this fails, too)


async def trial(ups: Sequence[Up], each: int, tokens: int, *, read: bool = False) -> dict[str, Any]:
    """`each` sessions on every engine at once. Step times are of the window in which all of them decode.

    `read`: their prompts are read before, as they are of a conversation's later turn. Else an engine that has read its
    prompts long before another may be done with its answers, too.
    """
    streams: list[list[tuple[float, int]]] = [[] for _ in range(each * len(ups))]
    tag = time.monotonic_ns()
    owners = [(up, f"{number}-{tag}") for up in ups for number in range(each)]
    peak = 0
    unread = 0
    if read:
        readings = (session(up, number, tokens, [], 1) for up, number in owners)
        results = await asyncio.gather(*readings, return_exceptions=True)
        unread = sum(isinstance(result, BaseException) for result in results)

    async def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, used_bytes())
            await asyncio.sleep(0.25)

    watching = asyncio.create_task(watch())
    began_s = time.perf_counter()
    results = await asyncio.gather(
        *(session(up, number, tokens, pieces) for (up, number), pieces in zip(owners, streams, strict=True)),
        return_exceptions=True,
    )
    took_s = time.perf_counter() - began_s
    watching.cancel()
    errors = [repr(result)[:300] for result in results if isinstance(result, BaseException)]
    whole = [pieces for pieces in streams if len(pieces) > 1]
    figures: dict[str, Any] = {
        "sessions": len(streams),
        "failed": len(streams) - len(whole) if not errors else len(errors),
        "unread": unread,
        "took_s": round(took_s, 2),
        "memory_peak_bytes": peak,
        "errors": errors[:1],
    }
    if whole:
        all_began_s = max(pieces[0][0] for pieces in whole)
        step_s = [_step_s([piece for piece in pieces if piece[0] >= all_began_s]) for pieces in whole]
        known = [value for value in step_s if value is not None]
        figures["together"] = all_began_s <= min(pieces[-1][0] for pieces in whole)
        figures["inter_token_p50_ms"] = ms(percentile(known, 0.5))
        figures["inter_token_p99_ms"] = ms(percentile(known, 0.99))
        figures["first_token_p99_s"] = round(all_began_s - began_s, 3)
    return figures


def _step_s(pieces: Sequence[tuple[float, int]]) -> float | None:
    """Seconds a token over a part of one stream; None where it is too short."""
    tokens = sum(count for _, count in itertools.islice(pieces, 1, None))
    return (pieces[-1][0] - pieces[0][0]) / tokens if tokens else None


def within(figures: dict[str, Any], target_ms: float) -> bool:
    """Whether all sessions were answered, all at the same time, 99 of 100 at the target's pace or faster."""
    p99 = figures.get("inter_token_p99_ms")
    return not figures["failed"] and bool(figures.get("together")) and p99 is not None and p99 <= target_ms


def session_tokens(bits: int, options: argparse.Namespace) -> int:
    """Slots of the pool that one session takes; at 4 bits its first and newest tokens take a second one each."""
    twice = PLANES.sink_tokens + PLANES.recent_tokens if bits == 4 else 0
    return int(options.context) + ANSWER + twice


def planned(weights: Path, options: argparse.Namespace, bits: int, known: Mapping[str, Any] = NOTHING) -> Sizes:
    """The planner's figures for sessions at `bits`; weights and overhead as measured in the part `known`."""
    model = ModelConfig(engine="sglang", weights=str(weights), kv_bits=8)
    need = need_of("planned", model, read_model_config(weights))
    return Sizes(
        known.get("weight_bytes", need.weight_bytes),
        known["at"][str(bits)]["overhead_bytes"] if known else need.overhead_bytes,
        need.per_token,
        session_tokens(bits, options),
        options.each + SPARE,
    )


def measured(up: Up, plan: Sizes) -> Sizes:
    """With this engine's weights, and what NVML sees beside them and the pool."""
    weights, held_bytes = up.facts.weight_bytes, up.engine.memory_bytes() if up.engine.options.device == "cuda" else 0
    if not held_bytes:
        return replace(plan, weight_bytes=weights)
    return replace(plan, weight_bytes=weights, overhead_bytes=held_bytes - weights - up.facts.kv_budget_bytes)


def memory(ups: Sequence[Up], plans: Mapping[Path, Sizes]) -> dict[str, Any]:
    """A group of engines: planned, by weights, against seen."""
    expected = sum(plans[up.case.weights].fixed_bytes + up.facts.kv_budget_bytes for up in ups)
    reading = GpuSource().read()
    seen = sum(up.engine.memory_bytes() for up in ups) if reading else None
    return {
        "engines": len(ups),
        "planned_bytes": expected,
        "seen_bytes": seen,
        "planner_error_pct_of_card": off_pct(expected, seen, reading.total_bytes) if reading and seen else None,
    }


async def warm(ups: Sequence[Up], tokens: int) -> None:
    """A first trial of each engine, one after another; its times mean nothing."""
    for up in ups:
        await trial([up], min(WARM, up.case.chats), tokens)


async def sessions(weights: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Sessions of one 7B model on the card, at each precision; the largest number within the target."""
    card, plans = int(options.card_gib * GIB), {bits: planned(weights, options, bits) for bits in BITS}
    most = {bits: max(1, min(options.sessions_max, held(plans[bits], bits, card).sessions)) for bits in BITS}
    equal = min(most.values())
    pools = {bits: (most[bits] + 1) * session_tokens(bits, options) for bits in BITS}
    cases = [
        Case(f"s{bits}", weights, bits, pools[bits], most[bits], options.context, (equal, most[bits])) for bits in BITS
    ]
    found: dict[str, Any] = {}
    async with started(cases, folder, options) as ups:
        await warm(ups, options.context)
        for up in ups:
            sizes = measured(up, plans[up.case.bits])
            trials: list[dict[str, Any]] = []

            async def holds(number: int, up: Up = up, trials: list[dict[str, Any]] = trials) -> bool:
                trials.append(await trial([up], number, options.context))
                print(up.case.name, json.dumps(trials[-1]), file=sys.stderr, flush=True)
                return within(trials[-1], options.target_ms)

            limit = min(up.case.chats, held(sizes, up.case.bits, card).sessions)
            best = limit  # SGLang keeps room for answers to grow, so the last session or two may have to wait
            while best > max(0, limit - 3) and not await holds(best):
                best -= 1
            if best and best == limit - 3:
                best = (await search(holds, best, tries=1)).holds
            equal = min(equal, best) or 1
            same = [at for at in trials if at["sessions"] == equal]
            found[str(up.case.bits)] = {
                "by_memory": limit,
                "within_target": best,
                "bytes_per_token": sizes.per_token[up.case.bits],
                "overhead_bytes": sizes.overhead_bytes,
                "trials": trials,
                "at_equal_sessions": same[-1] if same else await trial([up], equal, options.context),
            }
        return {
            "memory": memory(ups, {weights: plans[BITS[0]]}),
            "weight_bytes": sizes.weight_bytes,
            "overhead_bytes": max(at["overhead_bytes"] for at in found.values()),
            "at": found,
        }


def alike(
    name: str, weights: Path, bits: int, sizes: Sizes, options: argparse.Namespace, *, count: int = 1
) -> list[Case]:
    """`count` engines of one model, each with room for `--each` sessions and SGLang's spare."""
    pool = sizes.chats * sizes.context_tokens
    return [
        Case(f"{name}{bits}-{number}", weights, bits, pool, options.each, options.context, (options.each,))
        for number in range(count)
    ]


async def all_busy(ups: Sequence[Up], plans: Mapping[Path, Sizes], options: argparse.Namespace) -> dict[str, Any]:
    """All sessions of all engines decode at once."""
    seen = await trial(ups, options.each, options.context, read=True)
    entry = {
        "started": len(ups),
        "all_busy": seen,
        "within_target": within(seen, options.target_ms),
        "memory": memory(ups, plans),
    }
    print(ups[0].case.bits, json.dumps(entry), file=sys.stderr, flush=True)
    return entry


async def models(weights: Path, folder: Path, options: argparse.Namespace, known: Mapping[str, Any]) -> dict[str, Any]:
    """Models of the 7B shape on the card, each with the same sessions; all of one precision busy at once."""
    card = int(options.card_gib * GIB)
    sizes = {bits: planned(weights, options, bits, known) for bits in BITS}
    by_memory = {bits: held(sizes[bits], bits, card).models for bits in BITS}
    counts = {bits: min(options.models_max, by_memory[bits]) for bits in BITS}
    cases = [case for bits in BITS for case in alike("m", weights, bits, sizes[bits], options, count=counts[bits])]
    found: dict[str, Any] = {}
    async with started(cases, folder, options) as ups:
        await warm(ups, options.context)
        for bits in BITS:
            mine = [up for up in ups if up.case.bits == bits]
            busy = await all_busy(mine, {weights: sizes[bits]}, options) if mine else {"started": 0}
            found[str(bits)] = {"by_memory": by_memory[bits], **busy}
    return found


async def mix(
    small: Path, large: Path, folder: Path, options: argparse.Namespace, known: Mapping[Path, Mapping[str, Any]]
) -> dict[str, Any]:
    """One 32B model and as many of the 7B shape as fit beside it, each with the same sessions, all busy at once."""
    card = int(options.large_gib * GIB)
    found: dict[str, Any] = {"card_gib": options.large_gib, "at": {}}
    for bits in BITS:
        plans = {weights: planned(weights, options, bits, known[weights]) for weights in (small, large)}
        beside = max(0, held(plans[small], bits, card - plans[large].model_bytes(bits)).models)
        cases = alike("x", large, bits, plans[large], options)
        cases += alike("m", small, bits, plans[small], options, count=min(beside, options.beside_max))
        async with started(cases, folder, options) as ups:
            await warm(ups, options.context)
            found["at"][str(bits)] = {"by_memory": 1 + beside, **await all_busy(ups, plans, options)}
    return found


async def qwq(weights: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The article's case: one 32B model on the card, its longest chat at each precision."""
    card, plan = int(options.card_gib * GIB), planned(weights, options, 16)
    longest = {bits: min(options.qwq_tokens_max, held(plan, bits, card).context_tokens) for bits in BITS}
    cases = [
        Case(f"q{bits}", weights, bits, max(512, longest[bits]), 1, max(256, longest[bits] - ANSWER - 8), (1,))
        for bits in BITS
    ]
    found: dict[str, Any] = {}
    async with started(cases, folder, options) as ups:
        await warm(ups, min(2 * PREFILL_CHUNK, *(up.case.context for up in ups)))
        for up in ups:
            bits, sizes = up.case.bits, measured(up, plan)
            longest_context = held(sizes, bits, card).context_tokens
            fits = min(up.case.pool_tokens, longest_context) - (
                session_tokens(bits, options) - session_tokens(16, options)
            )
            entry: dict[str, Any] = {
                "longest_context": longest_context,
                "bytes_per_token": sizes.per_token[bits],
                "overhead_bytes": sizes.overhead_bytes,
            }
            entry["short"] = await trial([up], 1, min(1024, up.case.context))
            entry["chat"] = await trial([up], 1, max(64, min(up.case.context, fits - ANSWER - 8)))
            found[str(bits)] = entry
            print(bits, json.dumps(entry), file=sys.stderr, flush=True)
        return {"memory": memory(ups, {weights: plan}), "weight_bytes": sizes.weight_bytes, "at": found}


async def programme(options: argparse.Namespace) -> None:
    """The parts asked for. Each part's figures are kept as it ends, so that a later failure loses nothing."""
    reading = GpuSource().read()
    figures: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    figures |= {
        "gpu": reading.name if reading else None,
        "card_gib": options.card_gib,
        "context_tokens": options.context,
        "sessions_each": options.each,
        "inter_token_target_ms": options.target_ms,
    }
    options.logs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bh-gpu-") as name:
        small = options.weights or shapes.write(Path(name) / "7b", options.tokenizer, shapes.QWEN_7B)
        large = options.weights or shapes.write(
            Path(name) / "32b", options.tokenizer, shapes.QWQ_32B, context_tokens=131_072
        )
        for part in options.parts:
            if part == "sessions":
                figures[part] = await sessions(small, options.logs, options)
            elif part == "models":
                figures[part] = await models(small, options.logs, options, figures.get("sessions", {}))
            elif part == "qwq":
                figures[part] = await qwq(large, options.logs, options)
            else:
                known = {large: figures.get("qwq", {}), small: figures.get("sessions", {})}
                figures[part] = await mix(small, large, options.logs, options, known)
            write(options.out, figures)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tokenizer", type=Path, help="a folder of any tokenizer; needed where shapes are made")
    parser.add_argument("--weights", type=Path, help="a real model folder instead of the shapes (dry run)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--python", default=None, help="the interpreter that has SGLang")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--card-gib", type=float, default=24.0)
    parser.add_argument("--large-gib", type=float, default=78.0)
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--each", type=int, default=32)
    parser.add_argument("--sessions-max", type=int, default=320)
    parser.add_argument("--models-max", type=int, default=4)
    parser.add_argument("--beside-max", type=int, default=6)
    parser.add_argument("--qwq-tokens-max", type=int, default=100_000)
    parser.add_argument("--target-ms", type=float, default=100.0)
    parser.add_argument("--logs", type=Path, default=Path("/tmp/bunkhouse-capacity"))
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/capacity.json"))
    options = parser.parse_args()
    if options.weights is None and options.tokenizer is None:
        parser.error("one of --tokenizer and --weights is needed")
    asyncio.run(programme(options))


if __name__ == "__main__":
    main()
