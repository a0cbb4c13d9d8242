"""Closed loops of streamed chats against a host, with the time of each piece."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson

from services.evidence.statistics import percentile
from services.http_stream.client import StreamClient
from tests.host_process import HostProcess

WORDS = ("order", "parcel", "blender", "refund", "invoice", "filter", "warranty", "customer", "answer", "please")
PIECE = b'"content":"'
PAUSE_S = 0.5  # of a client that was turned away
_loops = itertools.count()


@dataclass
class Loop:
    """What the chats of one bot saw. Seconds."""

    gaps_s: list[float] = field(default_factory=list)
    firsts_s: list[float] = field(default_factory=list)
    paces_s: list[float] = field(default_factory=list)  # of each chat: mean seconds a token after the first
    pieces: int = 0
    took_s: float = 0.0  # to the last chat's end
    failed: int = 0
    errors: list[str] = field(default_factory=list)


def prompt(tokens: int, seed: int) -> str:
    """Words that come to about so many tokens, different for each seed."""
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(max(1, int(tokens / 1.3))))


async def one(http: StreamClient, key: str, bot: str, text: str, *, max_tokens: int, into: Loop) -> None:
    """One chat to its end."""
    times: list[float] = []

    def sink(piece: bytes, at: float) -> bool:
        times.extend([at] * (piece.count(PIECE) - piece.count(b'"content":""')))
        return True

    body = orjson.dumps(
        {"model": bot, "stream": True, "max_tokens": max_tokens, "messages": [{"role": "user", "content": text}]}
    )
    begin = time.perf_counter()
    answer = await http.post("/chat/completions", {"authorization": f"Bearer {key}"}, body, sink)
    if answer.status != 200 or not times:
        into.failed += 1
        into.errors.append(f"{answer.status} {answer.body[:200].decode(errors='replace')}")
        await asyncio.sleep(PAUSE_S)
        return
    into.firsts_s.append(times[0] - begin)
    if len(times) > 1:
        into.paces_s.append((times[-1] - times[0]) / (len(times) - 1))
    into.gaps_s += [after - before for before, after in itertools.pairwise(times)]
    into.pieces += len(times)


async def closed_loop(
    host: HostProcess, bot: str, clients: int, seconds: float, *, prompt_tokens: int, max_tokens: int
) -> Loop:
    """`clients` chats at a time for `seconds`, each followed by the next.

    No prompt comes twice in a run of this process: an engine would have it in its cache.
    """
    seen, first_seed = Loop(), next(_loops) * 1_000_000
    http = StreamClient(f"{host.url}/v1", time.perf_counter)
    key = host.keys[bot.partition("/")[0]]
    begin = time.perf_counter()
    until = begin + seconds

    async def client(number: int) -> None:
        turn = 0
        while time.perf_counter() < until:
            text = prompt(prompt_tokens, seed=first_seed + number * 1000 + turn)
            await one(http, key, bot, text, max_tokens=max_tokens, into=seen)
            turn += 1

    await asyncio.gather(*(client(number) for number in range(clients)))
    http.close()
    seen.took_s = time.perf_counter() - begin
    return seen


def together(loops: Sequence[Loop]) -> Loop:
    """Loops that ran side by side, as one."""
    return Loop(
        gaps_s=[gap_s for loop in loops for gap_s in loop.gaps_s],
        firsts_s=[first_s for loop in loops for first_s in loop.firsts_s],
        paces_s=[pace_s for loop in loops for pace_s in loop.paces_s],
        pieces=sum(loop.pieces for loop in loops),
        took_s=max(loop.took_s for loop in loops),
        failed=sum(loop.failed for loop in loops),
        errors=[loop.errors[0] for loop in loops if loop.errors][:1],
    )


def ms(value_s: float | None) -> float | None:
    """Seconds as milliseconds; None for nan."""
    return None if value_s is None or math.isnan(value_s) else round(value_s * 1000, 3)


def figures(seen: Loop) -> dict[str, float | int | None]:
    """Milliseconds and tokens a second."""
    return {
        "inter_token_p50_ms": ms(percentile(seen.gaps_s, 0.5)),
        "inter_token_p99_ms": ms(percentile(seen.gaps_s, 0.99)),
        "pace_p50_ms": ms(percentile(seen.paces_s, 0.5)),
        "pace_p99_ms": ms(percentile(seen.paces_s, 0.99)),
        "first_token_p50_ms": ms(percentile(seen.firsts_s, 0.5)),
        "first_token_p99_ms": ms(percentile(seen.firsts_s, 0.99)),
        "tokens_per_s": round(seen.pieces / seen.took_s, 1),
        "chats": len(seen.firsts_s),
        "failed": seen.failed,
    }
