"""Counters for billing: one hash a day, tenant and bot, written inside the scripts that end a chat."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

from services.contracts.chats import ChatUsage
from services.contracts.replies import Finish
from services.store import redis_keys as keys
from services.store.connection import Connection, translated

REFUSED = "refused:"  # + reason


def day_of(now_s: float) -> str:
    """The UTC day that a moment is billed on."""
    return _day(int(now_s // 86_400))


@lru_cache(8)
def _day(number: int) -> str:
    """Of days since 1970."""
    return datetime.fromtimestamp(number * 86_400, UTC).strftime("%Y-%m-%d")


def month_of(now_s: float) -> str:
    """The UTC month of a moment."""
    return day_of(now_s)[:7]


async def count_refusal(connection: Connection, tenant: str, bot: str, reason: str, now_s: float) -> None:
    """A chat that was refused before it got a ticket: a rate limit, a quota. Raises QueueUnavailable."""
    name = keys.usage(day_of(now_s), tenant, bot)
    with translated():
        async with connection.redis.pipeline(transaction=True) as pipe:
            pipe.hincrby(name, f"{REFUSED}{reason}", 1)
            pipe.sadd(keys.USAGES, name)
            await pipe.execute()


def counters(usage: ChatUsage | None, finish: Finish, code: str | None) -> list[str | int]:
    """Alternating names and amounts that one settled chat adds. Floats carry a point: settle.lua tells by it."""
    if usage is None:
        return [f"{REFUSED}{code or finish.value}", 1]
    money: list[str | int] = ["overflow_microusd", usage.overflow_microusd] if usage.overflow_microusd else []
    thoughts: list[str | int] = ["reasoning_tokens", usage.reasoning_tokens] if usage.reasoning_tokens else []
    return [
        *money,
        *thoughts,
        "chats",
        1,
        f"finish:{finish.value}",
        1,
        "prompt_tokens",
        usage.prompt_tokens,
        "cached_tokens",
        usage.cached_tokens,
        "completion_tokens",
        usage.completion_tokens,
        "kv_byte_seconds",
        f"{usage.kv_byte_seconds:.3f}",
        "queue_seconds",
        f"{usage.queue_s:.6f}",
    ]
