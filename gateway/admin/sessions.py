"""Sessions: conversations seen lately, what they hold, and their end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated

from fastapi import Path, Query

from gateway.admin.auth import Operator, Viewer
from gateway.admin.catalog import at_bits, quality_of
from gateway.admin.common import Host, bot_of, note, noted, routes
from gateway.admin.errors import BadValue, Conflict, NotFound
from gateway.admin.live import demote
from gateway.admin.schemas import Page, Session, SessionChat, SessionEnded, SessionKv, SessionKvAnswer
from gateway.state import Gateway
from services.contracts.chats import Ticket
from services.contracts.engines import EngineView
from services.store.registry_edit import read_registry
from services.store.scheduling import SchedulerStore
from services.store.sessions import SessionStore, StoredSession

SessionId = Annotated[str, Path(examples=["chat-42"])]

router = routes("sessions")


@dataclass
class HeldSession:
    """What runs and waits of all sessions, by tenant and session."""

    chats: dict[tuple[str, str], list[SessionChat]] = field(default_factory=dict)
    tickets: dict[str, Ticket] = field(default_factory=dict)


@router.get("/sessions")
async def index(
    host: Host,
    _: Viewer,
    tenant: Annotated[str | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page[Session]:
    """The sessions that were used last, of all tenants or one."""
    held = await _held(host)
    found, more = await SessionStore(host.connection).recent(tenant, limit, host.clock())
    return Page(items=[_shown(session, held) for session in found], more=more)


@router.get("/sessions/{tenant}/{session:path}")
async def show(tenant: str, session: SessionId, host: Host, _: Viewer) -> Session:
    """One session."""
    return _shown(await _stored(host, tenant, session), await _held(host))


@router.put("/sessions/{tenant}/{session:path}/kv")
async def put_kv(tenant: str, session: SessionId, wanted: SessionKv, host: Host, actor: Operator) -> SessionKvAnswer:
    """KV bits of one conversation. Chats that run are lowered at once; later ones start with these bits."""
    found = _shown(await _stored(host, tenant, session), await _held(host))
    engine = (await host.submissions.engines()).get(found.model)
    sizes = await _checked_sizes(host, found, engine, wanted.bits)
    running = [chat for chat in found.chats if chat.state != "waiting" and (chat.kv_bits or 0) > wanted.bits]
    freed = sum(
        chat.reserved_bytes
        - chat.reserved_bytes * sizes[wanted.bits] // sizes.get(chat.kv_bits or 0, sizes[wanted.bits])
        for chat in running
    )
    done = False
    if not wanted.dry_run:
        await SessionStore(host.connection).want_bits(tenant, session, wanted.bits)
        done = await demote(host, found.model, [chat.chat for chat in running], wanted.bits)
        before, after = {"kv_bits": found.kv_bits_wanted or found.kv_bits}, {"kv_bits": wanted.bits}
        await noted(host, note(host, actor, "session.kv", f"{tenant}/{session}", before=before, after=after))
    return SessionKvAnswer(
        tenant=tenant,
        session=session,
        dry_run=wanted.dry_run,
        done=done,
        bits_now=found.kv_bits,
        bits_new=wanted.bits,
        chats=[chat.chat for chat in running],
        freed_bytes=freed,
        quality_new=at_bits(await quality_of(host, found.model), wanted.bits),
        words=f"{len(running)} running chats are lowered; later chats start with {wanted.bits} bits.",
    )


@router.delete("/sessions/{tenant}/{session:path}")
async def end(tenant: str, session: SessionId, host: Host, actor: Operator) -> SessionEnded:
    """Cancel what waits and runs of a session, and forget it. Its next chat would begin a new one."""
    await _stored(host, tenant, session)
    held = await _held(host)
    cancelled = []
    for chat in held.chats.get((tenant, session), ()):
        keep_s = host.config.gateway.reply_keep_s
        if await host.submissions.cancel(held.tickets[chat.chat], keep_s, host.clock()):
            cancelled.append(chat.chat)
    await SessionStore(host.connection).forget(tenant, session)
    await noted(host, note(host, actor, "session.end", f"{tenant}/{session}", after={"cancelled": cancelled}))
    return SessionEnded(tenant=tenant, session=session, cancelled=cancelled)


async def _checked_sizes(host: Gateway, found: Session, engine: EngineView | None, bits: int) -> Mapping[int, int]:
    """Bytes a token at each precision, if the session can have these bits. Raises BadValue, Conflict."""
    if engine is None:
        raise Conflict(f"{found.model} has sent no report yet.", code="not_up")
    if not engine.facts.live_kv_bits:
        raise Conflict(
            f"All sessions of {found.model} have the same KV bits ({int(engine.facts.kv_bits)}). Change the model's.",
            code="kv_bits",
            param="bits",
        )
    able = sorted(engine.facts.kv_bytes_per_token)
    if bits not in able:
        raise BadValue(f"{found.model} holds KV at {', '.join(map(str, able))} bits.", code="kv_bits", param="bits")
    tenant, _, name = found.bot.partition("/")
    floor = bot_of(await read_registry(host.connection), tenant, name).kv.promised_bits
    if bits < floor:
        raise Conflict(f"{found.bot} promises at least {floor} bits.", code="below_floor", param="bits")
    return engine.facts.kv_bytes_per_token


async def _stored(host: Gateway, tenant: str, session: str) -> StoredSession:
    stored = await SessionStore(host.connection).read(tenant, session)
    if stored is None:
        raise NotFound(f"The tenant {tenant!r} has no recent session {session!r}.", param="session")
    return stored


async def _held(host: Gateway) -> HeldSession:
    desk, held = SchedulerStore(host.connection), HeldSession()
    reservations = await desk.reservations()
    for ticket in await desk.waiting():
        held.tickets[ticket.chat] = ticket
        chat = SessionChat(
            chat=ticket.chat,
            state="waiting",
            kv_bits=int(ticket.kv_bits),
            kv_bits_floor=int(ticket.kv_bits_floor),
            tokens_max=ticket.tokens_max,
            since_s=ticket.created_s,
        )
        held.chats.setdefault((ticket.tenant, ticket.session), []).append(chat)
    for reservation in reservations:
        info = await host.submissions.chat(reservation.chat)
        if info is None or info.state == "done":
            continue
        held.tickets[reservation.chat] = info.ticket
        chat = SessionChat(
            chat=reservation.chat,
            state="ready" if info.state == "ready" else "running",
            kv_bits=info.kv_bits or int(reservation.kv_bits),
            kv_bits_floor=int(reservation.kv_bits_floor),
            reserved_bytes=reservation.reserved_bytes,
            tokens_max=reservation.tokens_max,
            since_s=reservation.admitted_s,
        )
        held.chats.setdefault((reservation.tenant, reservation.session), []).append(chat)
    return held


def _shown(found: StoredSession, held: HeldSession) -> Session:
    chats = held.chats.get((found.tenant, found.session), [])
    return Session(**asdict(found), reserved_bytes=sum(chat.reserved_bytes for chat in chats), chats=chats)
