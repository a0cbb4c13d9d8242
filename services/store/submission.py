"""The gateway's side of the queues: submit, cancel, look up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from services.contracts.chats import Payload, Ticket
from services.contracts.control import ControlMessage
from services.contracts.engines import EngineView
from services.contracts.replies import Finish, ReplyEnd, ReplyError
from services.contracts.snapshot import Snapshot
from services.store import redis_keys as keys
from services.store.charges import REFUSED, RateCharge, RateWindow, day_of, month_of, to_give_back
from services.store.connection import Connection, translated
from services.store.engine_records import EngineRecords
from services.store.records import decode, encode
from services.store.registry import Registry
from services.store.registry_edit import read_registry, registry_version, restore
from services.store.sessions import SESSION_KEEP_S

CHAT_KEEP_S = 6 * 3600  # an unfinished chat is forgotten so long after it came, or a worker last took it


class Submitted(StrEnum):
    """What became of a submission."""

    OK = "ok"
    STALE = "stale"  # the registry changed: check the request again
    FULL = "full"
    TENANT_FULL = "tenant_full"
    LIMITED = "limited"  # a window of the tenant's limits has no room
    SAME = "same"  # an Idempotency-Key that stands for an earlier chat
    REUSED = "reused"  # an Idempotency-Key that stands for another question


@dataclass(frozen=True, slots=True)
class Submission:
    """`chat` is the earlier chat when `SAME` or `REUSED`; `place` counts the tenant's waiting chats, or all
    when `FULL`; `charge` comes with `OK` and `LIMITED` for a tenant with limits."""

    outcome: Submitted
    chat: str
    place: int = 0
    charge: RateCharge | None = None
    choices: Sequence[str] = ()  # with `SAME`: the chats of its further answers


@dataclass(frozen=True, slots=True)
class FurtherChat:
    """A further answer to the same request. `payload` None: its prompt is that of the chat before it."""

    ticket: Ticket
    payload: Payload | None = None

    @property
    def tokens(self) -> int:
        """What it is charged for."""
        return self.ticket.max_tokens if self.payload is None else self.ticket.tokens_max


@dataclass(frozen=True, slots=True)
class ChatInfo:
    """What the host knows of a chat."""

    ticket: Ticket
    state: str  # waiting | ready | running | done
    attempt: int
    kv_bits: int | None
    queue_s: float | None
    finish: Finish | None = None  # once done


class SubmissionClient:
    """Chats come in here. Every method raises QueueUnavailable when Redis does not answer in time."""

    def __init__(
        self,
        connection: Connection,
        *,
        waiting_max: int = 2000,
        waiting_per_tenant_max: int = 500,
        reply_channel: str = "",  # ReplyHub.channel of the process that serves the chats submitted here
    ) -> None:
        self._connection = connection
        self._reply_channel = reply_channel
        self._records = EngineRecords(connection)
        self._bounds = (waiting_max, waiting_per_tenant_max)

    async def submit(
        self,
        ticket: Ticket,
        payload: Payload,
        *,
        registry_version: int,
        idempotency_key: str | None = None,
        asked: str = "",
        windows: Sequence[RateWindow] = (),
        further: Sequence[FurtherChat] = (),
    ) -> Submission:
        """Put a ticket in its tenant's waiting room and charge it, or say why not. Atomic.

        `asked`: digest of the question, which an Idempotency-Key stands for. `windows`: what is charged, in all.
        `further`: chats that come in with it.
        """
        idempotency = keys.idempotency(ticket.tenant, idempotency_key) if idempotency_key else ""
        answer = await self._connection.script(
            "submit",
            [
                keys.REGISTRY,
                keys.WAITING,
                keys.wait(ticket.tenant),
                keys.ARRIVALS,
                keys.chat(ticket.chat),
                keys.reply(ticket.chat),
                keys.EVENTS,
                idempotency,
                keys.session(ticket.tenant, ticket.session),
                keys.SESSIONS,
                *(name for other in further for name in (keys.chat(other.ticket.chat), keys.reply(other.ticket.chat))),
                *(window.key for window in windows),
            ],
            [
                registry_version,
                ticket.chat,
                ticket.tenant,
                encode(ticket),
                encode(payload),
                *self._bounds,
                CHAT_KEEP_S,
                ticket.session,
                ticket.bot,
                ticket.model,
                ticket.created_s,
                SESSION_KEEP_S,
                asked,
                to_give_back(windows, ticket.tokens_max),
                self._reply_channel,
                len(further),
                *(value for other in further for value in _further_values(other, windows)),
                *(value for window in windows for value in (window.amount, window.most, window.keep_s)),
            ],
        )
        outcome = Submitted(answer[0].decode())
        if outcome in (Submitted.SAME, Submitted.REUSED):
            return Submission(outcome, answer[1].decode(), choices=answer[2].decode().split())
        number = answer[1] if len(answer) > 1 else 0
        if outcome is Submitted.LIMITED:
            return Submission(outcome, ticket.chat, charge=RateCharge(windows, answer[2:], windows[number - 1]))
        return Submission(outcome, ticket.chat, number, RateCharge(windows, answer[2:]) if answer[2:] else None)

    async def cancel(self, ticket: Ticket, keep_s: int, now_s: float, *, leaving: str = "") -> bool:
        """Stop a chat wherever it is. False when it had ended. `leaving` names a reader that leaves: the chat stops
        only if all others have left, at whichever gateway they were."""
        while True:
            message = encode(ControlMessage(cancel=ticket.chat))
            channel = keys.control_channel(ticket.model)
            answer = await self._connection.script("cancel", [keys.chat(ticket.chat)], [channel, message, leaving, 1])
            state = answer.decode()
            if state != "waiting":
                return bool(state == "ok")
            end = ReplyEnd(Finish.CANCELLED, error=ReplyError("cancelled", "The client went away."))
            if await self._refuse(ticket, end, keep_s, now_s, unread=bool(leaving)):
                return True
            # It was dispatched between the two steps: tell its worker instead. Or a client took it up: leave it alone.

    async def leave(self, ticket: Ticket, reader: str) -> None:
        """Count a reader that leaves, whose client goes on at another gateway."""
        await self._connection.script("cancel", [keys.chat(ticket.chat)], ["", "", reader, 0])

    async def _refuse(self, ticket: Ticket, end: ReplyEnd, keep_s: int, now_s: float, *, unread: bool) -> bool:
        counter = f"{REFUSED}cancelled"
        answer = await self._connection.script(
            "refuse",
            refuse_keys(ticket, now_s),
            ["", ticket.tenant, ticket.chat, encode(end), counter, keep_s, "cancel", int(unread)],
        )
        return bool(answer == b"ok")

    async def chat(self, chat_id: str) -> ChatInfo | None:
        """A chat by id, or None when there is none or it was forgotten."""
        names = ("ticket", "state", "attempt", "kv_bits", "queue_s", "finish")
        with translated():
            values: list[Any] = await self._connection.redis.hmget(keys.chat(chat_id), list(names))
        return None if values[0] is None else _chat_info(values)

    async def known(self, tenant: str, idempotency_key: str) -> bool:
        """Whether an Idempotency-Key stands for a chat."""
        with translated():
            return bool(await self._connection.redis.exists(keys.idempotency(tenant, idempotency_key)))

    async def follow(self, chat_id: str, tenant: str, *, take: bool) -> ChatInfo | None:
        """A tenant's own chat, or None: another tenant's does not exist for it. `take` counts a new reader, so that
        the gateway whose client went away leaves the chat alone."""
        values = await self._connection.script("follow", [keys.chat(chat_id)], [tenant, int(take)])
        return None if values is None else _chat_info(values)

    async def waiting_by_tenant(self) -> Mapping[str, int]:
        """How many chats wait of each tenant that has any."""
        with translated():
            stored = await self._connection.redis.hgetall(keys.WAITING)
        return {name.decode(): int(count) for name, count in stored.items()}

    async def spent_usd(self, tenant: str, now_s: float) -> float:
        """What a tenant's chats cost at other providers this month, or may come to cost."""
        with translated():
            spent = await self._connection.redis.get(keys.spent(month_of(now_s), tenant))
        return int(spent or 0) / 1e6

    async def registry(self) -> Registry:
        """Tenants, keys and bots as they are now."""
        return await read_registry(self._connection)

    async def registry_version(self) -> int:
        """Version of the stored registry; 0 when there is none."""
        return await registry_version(self._connection)

    async def restore_registry(self, registry: Registry, now_s: float) -> bool:
        """Write back a registry that Redis has lost. False: another gateway did."""
        return await restore(self._connection, registry, now_s)

    async def registry_changes(self) -> AsyncIterator[None]:
        """Once when it listens, then at each change. Ends with QueueUnavailable when the connection breaks."""
        pubsub = self._connection.blocking.pubsub()
        with translated():
            try:
                await pubsub.subscribe(keys.REGISTRY_HINTS)
                async for message in pubsub.listen():
                    if message["type"] in ("subscribe", "message"):
                        yield None
            finally:
                await pubsub.aclose()

    async def snapshot(self) -> Snapshot | None:
        """What the scheduler last saw, or None when none runs."""
        return await self._records.snapshot()

    async def engines(self) -> Mapping[str, EngineView]:
        """Facts and last report of each model."""
        return await self._records.engines()

    async def given_up(self) -> set[str]:
        """Models and providers that are not tried again."""
        return await self._records.given_up()

    async def queued_models(self, models: Iterable[str]) -> set[str]:
        """Those of these models whose ready stream is there: a worker made it."""
        names = list(models)
        with translated():
            async with self._connection.redis.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.exists(keys.ready(name))
                there = await pipe.execute()
        return {name for name, exists in zip(names, there, strict=True) if exists}

    async def ping(self) -> None:
        """Raises QueueUnavailable unless Redis answers."""
        await self._connection.ping()


def _further_values(other: FurtherChat, windows: Sequence[RateWindow]) -> tuple[str | bytes, ...]:
    """What submit.lua reads of it."""
    payload = b"" if other.payload is None else encode(other.payload)
    charge = to_give_back([window for window in windows if window.what != "requests"], other.tokens)
    return other.ticket.chat, encode(other.ticket), payload, charge


def _chat_info(values: list[Any]) -> ChatInfo:
    ticket, state, attempt, kv_bits, queue_s, finish = values
    return ChatInfo(
        ticket=decode(Ticket, ticket),
        state=state.decode(),
        attempt=int(attempt),
        kv_bits=int(kv_bits) if kv_bits else None,
        queue_s=float(queue_s) if queue_s else None,
        finish=Finish(finish.decode()) if finish else None,
    )


def refuse_keys(ticket: Ticket, now_s: float) -> list[str]:
    """KEYS of refuse.lua."""
    return [
        keys.LEASE,
        keys.wait(ticket.tenant),
        keys.WAITING,
        keys.chat(ticket.chat),
        keys.reply(ticket.chat),
        keys.EVENTS,
        keys.usage(day_of(now_s), ticket.tenant, ticket.usage_bot),
        keys.USAGES,
    ]
