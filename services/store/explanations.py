"""Why a chat waits, runs ended or was refused: the question goes to the scheduler through its events."""

from __future__ import annotations

import secrets

import orjson

from services.contracts.explanation import Explanation
from services.store import redis_keys as keys
from services.store.connection import Connection, translated
from services.store.records import decode

ANSWER_S_MAX = 5.0  # a scheduler's lease runs out after 3
ASKED_MAX = 2  # a question that falls into a scheduler's take-over is not heard


class NoScheduler(Exception):
    """No scheduler answered in time."""


async def explain(connection: Connection, chat: str, answer_s_max: float = ANSWER_S_MAX) -> Explanation:
    """The scheduler's answer for one chat. Raises NoScheduler, QueueUnavailable."""
    ask = secrets.token_hex(8)
    event = {"k": "explain", "d": orjson.dumps({"chat": chat, "ask": ask})}
    for _ in range(ASKED_MAX):
        with translated():
            await connection.redis.xadd(keys.EVENTS, event, maxlen=20_000, approximate=True)
        wait_s = answer_s_max / ASKED_MAX
        read = connection.blocking.blpop([keys.explain(ask)], timeout=wait_s)
        answer = await connection.blocked(read, round(wait_s * 1000))
        if answer is not None:
            return decode(Explanation, answer[1])
    raise NoScheduler(f"No scheduler answered within {answer_s_max:g} s.")
