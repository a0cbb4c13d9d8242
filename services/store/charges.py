"""What a chat is charged: a tenant's windows of requests and tokens when it comes, billing counters when it ends.

Windows are charged in the step that lets a chat in, at any number of gateways. They are fixed: minute and month of UTC.
A chat is charged its prompt and the longest answer it may get, and what it is charged stands in its hash. The script
that ends it gives back what it did not take, in the windows it was charged in: right to the token, whichever process
died meanwhile. Fails closed: where Redis does not answer nothing is charged and nothing is let in.

Counters are one hash a day, tenant and bot, written inside the scripts that end a chat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from services.config.schema import LimitsConfig
from services.contracts.chats import ChatUsage
from services.contracts.replies import Finish
from services.store import redis_keys as keys
from services.store.connection import Connection, translated

MINUTE_S = 60
MONTH_KEEP_S = 40 * 86400


@dataclass(frozen=True, slots=True)
class RateWindow:
    """One counter: how much of `what` goes into it, and when it begins anew (Unix time)."""

    what: str  # "requests" | "tokens" | "month"
    key: str
    most: int
    amount: int
    resets_s: float

    @property
    def keep_s(self) -> int:
        return MONTH_KEEP_S if self.what == "month" else 2 * MINUTE_S


@dataclass(frozen=True, slots=True)
class RateCharge:
    """What one chat was charged, with each window's use then. `refused`: the window that had no room; nothing was
    charged then."""

    windows: Sequence[RateWindow]
    used: Sequence[int]
    refused: RateWindow | None = None


def to_give_back(windows: Sequence[RateWindow], tokens: int) -> str:
    """What a chat's hash keeps until it ends: tokens charged, the windows that hold them, and the window of its request
    ('' without limits). The request itself is given back only if the host refuses the chat (give_back.lua)."""
    keys_of = (f"requests={window.key}" if window.what == "requests" else window.key for window in windows)
    return " ".join((str(tokens), *keys_of)) if windows else ""


def windows_of(tenant: str, limits: LimitsConfig, tokens: int, now_s: float) -> list[RateWindow]:
    """The windows that a chat of `tokens` is charged in now."""
    minute = int(now_s // MINUTE_S)
    minute_end_s = float((minute + 1) * MINUTE_S)
    windows: list[RateWindow] = []
    if limits.requests_per_minute is not None:
        key = keys.limit(tenant, "requests", minute)
        windows.append(RateWindow("requests", key, limits.requests_per_minute, 1, minute_end_s))
    if limits.tokens_per_minute is not None:
        key = keys.limit(tenant, "tokens", minute)
        windows.append(RateWindow("tokens", key, limits.tokens_per_minute, tokens, minute_end_s))
    if limits.tokens_per_month is not None:
        today = datetime.fromtimestamp(now_s, UTC)
        year, month = today.year + today.month // 12, today.month % 12 + 1
        key = keys.limit(tenant, "month", today.year * 100 + today.month)
        windows.append(
            RateWindow("month", key, limits.tokens_per_month, tokens, datetime(year, month, 1, tzinfo=UTC).timestamp())
        )
    return windows


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
