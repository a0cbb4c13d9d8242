"""The scheduler's side of the queues: lease, events, the atomic dispatch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

import orjson

from services.contracts.chats import KvBits, Ticket, TokenPrice
from services.contracts.control import ControlMessage
from services.contracts.decisions import Decision, Reservation
from services.contracts.engines import EngineView, Learned, provider_model
from services.contracts.explanation import Explanation
from services.contracts.replies import Finish, ReplyEnd, ReplyError
from services.contracts.snapshot import Snapshot
from services.store import redis_keys as keys
from services.store.charges import REFUSED, month_of
from services.store.commands import send_control
from services.store.connection import Connection, pairs, translated
from services.store.engine_records import EngineRecords
from services.store.records import SchedulerEvent, decode, decode_event, encode
from services.store.submission import refuse_keys
from services.store.unserved import REPLY_KEEP_S, end_dispatched

EVENTS_KEEP_MS = 60_000
EXPLAIN_KEEP_MS = 10_000
LEARNED_KEEP_MS = 3_600_000


class Dispatched(StrEnum):
    """What became of a decision."""

    OK = "ok"
    FENCED = "fenced"  # another scheduler holds the lease
    GONE = "gone"  # the chat was cancelled meanwhile
    UNPAID = "unpaid"  # its tenant has not that much money left for other providers: it waits on


class SchedulerStore:
    """The one writer of the ledger works here. Methods raise QueueUnavailable."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._records = EngineRecords(connection)

    async def take_lease(self, mine: str, name: str, ttl_ms: int) -> str | None:
        """Take or keep the lease. Returns the holder name to present, or None while another holds it."""
        holder = await self._connection.script("lease", [keys.LEASE, keys.FENCE], [mine, name, ttl_ms])
        return holder.decode() if holder else None

    async def give_lease(self, mine: str) -> None:
        """Hand the lease back, if it is still ours, so that another need not wait for it to run out."""
        with translated():
            if await self._connection.redis.get(keys.LEASE) == mine.encode():
                await self._connection.redis.delete(keys.LEASE)

    async def last_event(self) -> str:
        """Place of the newest event: read on from here after reading the stored state."""
        with translated():
            newest = await self._connection.redis.xrevrange(keys.EVENTS, count=1)
        return newest[0][0].decode() if newest else "0-0"

    async def events(self, after: str, block_ms: int) -> tuple[str, list[SchedulerEvent]]:
        """Events since a place; waits up to `block_ms` for the first."""
        command = ("XREAD", "COUNT", 1000, "BLOCK", block_ms, "STREAMS", keys.EVENTS, after)
        entries = await self._connection.read_blocking(command, block_ms)
        if not entries:
            return after, []
        return entries[-1][0].decode(), [decode_event(pairs(values)) for _, values in entries]

    async def forget_events(self, heard: str) -> None:
        """Delete events that were heard `EVENTS_KEEP_MS` and longer before the place `heard`.

        The younger ones stay: a scheduler that has lost its lease and does not know it yet must not delete what the
        next one has still to hear.
        """
        before_ms = int(heard.partition("-")[0]) - EVENTS_KEEP_MS
        if before_ms > 0:
            with translated():
                await self._connection.redis.xtrim(keys.EVENTS, minid=str(before_ms), approximate=True)

    async def waiting(self) -> list[Ticket]:
        """All tickets in the waiting rooms, each tenant's in order of arrival."""
        redis = self._connection.redis
        tickets: list[Ticket] = []
        with translated():
            for tenant in await redis.hkeys(keys.WAITING):
                chats = await redis.zrange(keys.wait(tenant.decode()), 0, -1)
                async with redis.pipeline(transaction=False) as pipe:
                    for chat in chats:
                        pipe.hget(keys.chat(chat.decode()), "ticket")
                    tickets += [decode(Ticket, data) for data in await pipe.execute() if data]
        return tickets

    async def reservations(self) -> list[Reservation]:
        """The ledger as Redis keeps it."""
        with translated():
            stored = await self._connection.redis.hvals(keys.RESERVATIONS)
        return [decode(Reservation, data) for data in stored]

    async def dispatch(self, lease: str, ticket: Ticket, reservation: Reservation) -> Dispatched:
        """Reserve and move to the ready stream, at once."""
        return await self._move(
            "dispatch",
            lease,
            ticket,
            to=ticket.model,
            bits=reservation.kv_bits,
            waited_s=max(0.0, reservation.admitted_s - ticket.created_s),
            own_key=keys.RESERVATIONS,
            own=[encode(reservation)],
        )

    async def overflow(
        self, lease: str, ticket: Ticket, waited_s: float, *, microusd: int, microusd_max: int | None
    ) -> Dispatched:
        """Hand a waiting chat to another provider's worker, and count `microusd` as spent until it is settled.

        Not if its tenant would have spent more than `microusd_max` then. The chat holds no KV memory here.
        """
        return await self._move(
            "overflow",
            lease,
            ticket,
            to=provider_model(ticket.overflow_to or ""),
            bits=KvBits.SIXTEEN,
            waited_s=waited_s,
            own_key=keys.spent(month_of(ticket.created_s), ticket.tenant),
            own=[microusd, "" if microusd_max is None else microusd_max],
        )

    async def _move(
        self,
        script: str,
        lease: str,
        ticket: Ticket,
        *,
        to: str,
        bits: KvBits,
        waited_s: float,
        own_key: str,
        own: Sequence[bytes | int | str],
    ) -> Dispatched:
        """To the ready stream of `to`, by one of two scripts; `own_key` and `own` are what it has beside the other."""
        answer = await self._connection.script(
            script,
            [
                keys.LEASE,
                keys.wait(ticket.tenant),
                keys.WAITING,
                keys.chat(ticket.chat),
                keys.ready(to),
                keys.session(ticket.tenant, ticket.session),
                own_key,
            ],
            [lease, ticket.tenant, ticket.chat, int(bits), f"{waited_s:.6f}", *own],
        )
        return Dispatched(answer.decode())

    async def spent(self, tenants: Sequence[str], now_s: float) -> list[int]:
        """What other providers take for each tenant's chats of this month, in micro-dollars."""
        month = month_of(now_s)
        with translated():
            stored = await self._connection.redis.mget([keys.spent(month, tenant) for tenant in tenants])
        return [int(amount or 0) for amount in stored]

    async def refuse(self, lease: str, ticket: Ticket, decision: Decision, message: str, now_s: float) -> Dispatched:
        """End a waiting chat with an error that its client gets."""
        error = ReplyError(decision.reason.value, message, decision.retry_after_s)
        counter = f"{REFUSED}{decision.reason.value}"
        answer = await self._connection.script(
            "refuse",
            refuse_keys(ticket, now_s),
            [
                lease,
                ticket.tenant,
                ticket.chat,
                encode(ReplyEnd(Finish.ERROR, error=error)),
                counter,
                REPLY_KEEP_S,
                "",
                "",
            ],
        )
        return Dispatched(answer.decode())

    async def engines(self) -> list[EngineView]:
        """Every engine's facts and last report."""
        return list((await self._records.engines()).values())

    async def given_up(self) -> set[str]:
        """Models and providers that are not tried again."""
        return await self._records.given_up()

    async def end_dispatched(self, model: str, message: str, price: TokenPrice, now_s: float) -> int:
        """End what a model that was given up has, billed for what it got. Returns how many chats."""
        return await end_dispatched(self._connection, model, message, price, now_s)

    async def publish_snapshot(self, snapshot: Snapshot, ttl_ms: int) -> None:
        """Let gateways and the dashboard see what the scheduler sees."""
        with translated():
            await self._connection.redis.set(keys.SNAPSHOT, encode(snapshot), px=ttl_ms)

    async def keep_learned(self, learned: Iterable[Learned]) -> None:
        """Keep what the engines taught, for whoever takes over within the hour."""
        fields = {one.model: encode(one) for one in learned}
        if fields:
            with translated():
                async with self._connection.redis.pipeline(transaction=True) as pipe:
                    pipe.hset(keys.LEARNED, mapping=fields)
                    pipe.pexpire(keys.LEARNED, LEARNED_KEEP_MS)
                    await pipe.execute()

    async def learned(self) -> list[Learned]:
        """What a scheduler before this one kept."""
        with translated():
            stored = await self._connection.redis.hvals(keys.LEARNED)
        return [decode(Learned, data) for data in stored]

    async def explained(self, ask: str, explanation: Explanation) -> None:
        """Answer a question, for whoever still waits for it."""
        with translated():
            async with self._connection.redis.pipeline(transaction=True) as pipe:
                pipe.lpush(keys.explain(ask), encode(explanation))
                pipe.pexpire(keys.explain(ask), EXPLAIN_KEEP_MS)
                await pipe.execute()

    async def lower(self, lease: str, reservation: Reservation) -> Dispatched:
        """Write down that a running chat holds less."""
        answer = await self._connection.script(
            "lower", [keys.LEASE, keys.RESERVATIONS], [lease, reservation.chat, encode(reservation)]
        )
        return Dispatched(answer.decode())

    async def control(self, model: str, *messages: ControlMessage) -> None:
        """Tell a model's worker: demote a chat, wake up."""
        await send_control(self._connection, model, messages)


ORJSON = orjson.OPT_NON_STR_KEYS
