"""Chats that were dispatched to a model whose worker died and is not started again: nobody else would end them."""

from __future__ import annotations

import structlog

from services.contracts.chats import ChatUsage, TokenPrice
from services.contracts.decisions import Reason
from services.contracts.engines import is_provider
from services.contracts.replies import HERE, Finish, ReplyEnd, ReplyError
from services.store import redis_keys as keys
from services.store.connection import Connection, translated
from services.store.records import ClaimedChat
from services.store.work import WorkConsumer, Written

REPLY_KEEP_S = 600

log = structlog.get_logger()


async def end_dispatched(connection: Connection, model: str, message: str, price: TokenPrice, now_s: float) -> int:
    """End them with `model_down`, billed for what was written of their answers. Returns how many.

    `price`: of a provider's tokens. Raises QueueUnavailable.
    """
    with translated():
        entries = await connection.redis.xrange(keys.ready(model))
    if not entries:
        return 0
    work = WorkConsumer(connection, model, "unserved", model if is_provider(model) else HERE)
    ended = 0
    for entry, values in entries:
        chat = values[b"chat"].decode()
        claim = await work.claim(entry.decode(), chat)  # fences the worker, should it still write
        if claim is None:
            continue
        usage = _usage(claim, await work.written(chat), price)
        error = ReplyError(Reason.MODEL_DOWN.value, message)
        end = ReplyEnd(Finish.CANCELLED) if claim.cancelled else ReplyEnd(Finish.ERROR, error=error)
        end = ReplyEnd(end.finish, usage, end.error, served_by=work.served_by)
        await work.settle(claim.ticket, claim.attempt, end, usage=usage, keep_s=REPLY_KEEP_S, now_s=now_s)
        ended += 1
    log.warning("chats.unserved", model=model, ended=ended)
    return ended


def _usage(claim: ClaimedChat, written: Written, price: TokenPrice) -> ChatUsage | None:
    """What a chat got; None: nothing."""
    if not written.tokens:
        return None
    prompt_tokens = claim.ticket.prompt_tokens
    return ChatUsage(
        prompt_tokens=prompt_tokens,
        cached_tokens=0,
        completion_tokens=written.tokens,
        kv_bits=claim.kv_bits,
        kv_byte_seconds=claim.kv_byte_seconds,
        queue_s=claim.queue_s,
        cached_known=False,
        reasoning_tokens=min(written.reasoning_tokens, written.tokens),
        overflow_microusd=round(price.microusd(prompt_tokens, written.tokens)),
    )
