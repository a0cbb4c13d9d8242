"""From a checked request to a place in the waiting room."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import structlog

from gateway import limits
from gateway.call import Call
from gateway.outcomes import Code, Refused
from gateway.request import ChatRequest, session_of
from gateway.state import Gateway
from gateway.tickets import payload_for, ticket_for
from services.config.api_keys import salt
from services.contracts.chats import Payload, Ticket
from services.store.connection import QueueUnavailable
from services.store.rate_limits import RateCharge
from services.store.redis_keys import QUEUED
from services.store.replies import START, Reader
from services.store.submission import Submission, Submitted
from services.store.usage_counters import count_refusal

STALE_TRIES_MAX = 5
IDEMPOTENCY_KEY_CHARS_MAX = 255
ABANDON_AFTER_S = (0.5, 1.0, 2.0)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Admitted:
    """A chat that waits or runs, and this client's share in it."""

    ticket: Ticket
    after: str = START  # the client has read up to here
    readers: int = 0  # clients that took the reply up so far: if more do, this one no longer cancels it
    waits: bool = True  # it was not dispatched yet when we last looked
    charge: RateCharge | None = None
    keyed: bool = False  # the client can ask for it again with its Idempotency-Key
    reader: Reader | None = None  # follows the chat already; None: to be made


async def admit(gateway: Gateway, call: Call, request: ChatRequest, reader: Reader) -> Admitted:
    """Check a request against the registry and submit it, again if the registry changed meanwhile.

    `reader` follows the new chat's reply already, so that no news is missed. Raises Refused, QueueUnavailable.
    """
    session = session_of(request, (call.header(b"x-bunkhouse-session"), call.header(b"x-openwebui-chat-id")))
    key = _idempotency_key(call)
    asked = "" if key is None else request.digest
    chat = reader.chat
    for _ in range(STALE_TRIES_MAX):
        tenant = await gateway.directory.authenticate(call.header(b"authorization"))
        ticket, payload, version = await prepare(
            gateway, tenant, request, chat=chat, session=session or chat, call=call.request_id
        )
        with gateway.breaker:
            try:
                submission = await gateway.door.submit(
                    ticket,
                    payload,
                    registry_version=version,
                    idempotency_key=key,
                    asked=asked,
                    windows=limits.windows(gateway, ticket),
                )
            except QueueUnavailable:
                grace_s = gateway.config.gateway.resume_grace_s if key is not None else 0.0
                _in_background(gateway, _abandon(gateway, ticket, grace_s))
                raise
            if submission.outcome is Submitted.OK:
                return Admitted(ticket, QUEUED, charge=submission.charge, keyed=key is not None, reader=reader)
            if submission.outcome in (Submitted.SAME, Submitted.REUSED):
                return await _join(gateway, submission, tenant)
            if submission.outcome is not Submitted.STALE:
                refused = limits.refusal(submission.charge, ticket.created_s) or _full(submission)
                raise await _counted(gateway, ticket, refused)
            await gateway.directory.reload()
    raise Refused(Code.QUEUE_UNAVAILABLE, "The host's configuration keeps changing. Try again.")


async def prepare(
    gateway: Gateway, tenant: str, request: ChatRequest, *, chat: str, session: str, call: str
) -> tuple[Ticket, Payload, int]:
    """Ticket and payload of a chat, and the registry's version that they were made from. Raises Refused."""
    bot, version = gateway.directory.bot(tenant, request.model), gateway.directory.version
    engine = gateway.engines.get(bot.config.model)
    if engine is None:
        raise Refused(Code.MODEL_DOWN, "This bot's model is not configured on this host.", param="model")
    prompt = await gateway.prompts.prepare(bot, request, engine)
    now_s = gateway.clock()
    ticket = ticket_for(
        chat,
        bot,
        engine,
        request,
        prompt,
        session=session,
        call=call,
        now_s=now_s,
        overflow=bot.config.overflow is not None and await _money_left(gateway, tenant, now_s),
    )
    return ticket, payload_for(bot, request, prompt, salt(tenant, gateway.secrets.salt)), version


async def _money_left(gateway: Gateway, tenant: str, now_s: float) -> bool:
    """Whether a tenant may still spend on other providers this month."""
    most = gateway.directory.limits(tenant).overflow_usd_per_month
    return most is None or await gateway.door.spent_usd(tenant, now_s) < most


async def _join(gateway: Gateway, submission: Submission, tenant: str) -> Admitted:
    """The chat that an Idempotency-Key stands for. Raises Refused when it stands for another question."""
    if submission.outcome is Submitted.REUSED:
        raise Refused(Code.IDEMPOTENCY_KEY, "This Idempotency-Key was used before for another request. Use a new one.")
    info = await gateway.door.follow(submission.chat, tenant, take=True)
    if info is None:
        raise Refused(
            Code.IDEMPOTENCY_KEY,
            "This Idempotency-Key was used before and its answer is no longer kept. Use a new one.",
        )
    return Admitted(info.ticket, readers=info.readers, waits=info.state == "waiting", keyed=True)


async def _abandon(gateway: Gateway, ticket: Ticket, grace_s: float) -> None:
    """Redis fell silent during a submission: the chat may be waiting all the same, and nobody would read it.

    A client with an Idempotency-Key may come for it within `grace_s`, and must not find it cancelled.
    """
    await asyncio.sleep(grace_s)
    for pause_s in ABANDON_AFTER_S:
        await asyncio.sleep(pause_s)
        try:
            if await gateway.door.cancel(ticket, gateway.config.gateway.reply_keep_s, gateway.clock(), readers=0):
                return
        except QueueUnavailable:
            continue


def _in_background(gateway: Gateway, work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(work)
    gateway.lingering.add(task)
    task.add_done_callback(gateway.lingering.discard)


def _idempotency_key(call: Call) -> str | None:
    key = call.header(b"idempotency-key")
    if key is not None and (len(key) > IDEMPOTENCY_KEY_CHARS_MAX or not key.isprintable()):
        raise Refused(Code.INVALID_VALUE, f"Idempotency-Key: at most {IDEMPOTENCY_KEY_CHARS_MAX} printable characters.")
    return key


async def _counted(gateway: Gateway, ticket: Ticket, refused: Refused) -> Refused:
    """A refusal before the queue, counted for the usage report as those after it are."""
    await count_refusal(gateway.connection, ticket.tenant, ticket.bot, refused.code.value, ticket.created_s)
    return refused


def _full(submission: Submission) -> Refused:
    if submission.outcome is Submitted.TENANT_FULL:
        return Refused(Code.TENANT_QUEUE_FULL, f"{submission.place} of your chats are waiting already. Try again soon.")
    return Refused(Code.QUEUE_FULL, f"{submission.place} chats are waiting on this host. Try again soon.")
