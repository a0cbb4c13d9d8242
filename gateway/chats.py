"""The chat routes: ask, resume, look up."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import orjson
import structlog

from gateway.actions.loop import answered_with_actions
from gateway.answers import AnswerFormat, ChatCompletions
from gateway.call import Call
from gateway.choices import Choices, follow
from gateway.outcomes import Code, Refused, raise_for_end
from gateway.relay import STREAM_HEAD, relay_stream, relay_whole
from gateway.request import ChatRequest, checked_chat, json_object, session_of
from gateway.state import Gateway
from gateway.submit import Admitted, Caller, limit_headers, new_chat_id, submit
from services.contracts.chats import Ticket
from services.contracts.replies import QUEUED, ReplyEntry
from services.store.replies import ENTRY_ID, START
from services.store.submission import ChatInfo

LOOK_UP_S_MAX = 2.0
IDEMPOTENCY_KEY_CHARS_MAX = 255
OUR_HEADERS = b"x-bunkhouse-"
RESUMES = ("1", "true")  # values of X-Bunkhouse-Resume
CLIENT_HEADERS = frozenset({b"x-bunkhouse-session", b"x-bunkhouse-resume"})

log = structlog.get_logger()
_CHAT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


async def create(gateway: Gateway, call: Call) -> None:
    """POST /v1/chat/completions: authenticate, parse, admit, relay. Raises Refused, QueueUnavailable, ClientGone."""
    body = await json_body(gateway, call)
    request = checked_chat(body, strict=gateway.config.gateway.strict)
    count, usage, continuous = request.n or 1, request.include_usage, request.continuous_usage

    def format_of(ticket: Ticket) -> AnswerFormat:
        if count > 1:
            return Choices(ticket, count, include_usage=usage, continuous_usage=continuous)
        return ChatCompletions(ticket, ids=wants_ids(call), include_usage=usage, continuous_usage=continuous)

    await answer(gateway, call, request, format_of)


async def answer(
    gateway: Gateway, call: Call, request: ChatRequest, format_of: Callable[[Ticket], AnswerFormat]
) -> None:
    """Admit a chat and relay its reply as `format_of` writes it. Raises Refused, QueueUnavailable, ClientGone."""
    note_unknown(gateway, call, request.unknown)
    key = _idempotency_key(call)
    caller = Caller(
        lambda: gateway.directory.authenticate(call.authorization),
        call.request_id,
        session_of(request, (call.header(b"x-bunkhouse-session"), call.header(b"x-openwebui-chat-id"))),
        key,
        asked="" if key is None else request.digest,
        resumes=call.header(b"x-bunkhouse-resume") in RESUMES,
    )
    began_s = call.elapsed_s
    request = await answered_with_actions(gateway, caller, call.tenant or await caller.tenant(), request)
    acted_s = call.elapsed_s - began_s
    chats = [new_chat_id() for _ in range((request.n or 1) * max(1, len(request.raws)))]
    with follow(gateway.hub, chats, QUEUED, fresh=True) as reader:  # before the chats are there, to miss nothing
        chat = await submit(gateway, caller, request, *chats)
        call.chat = chat.ticket.chat
        call.limit_headers = limit_headers(chat.charge, gateway.clock())
        call.overhead_s = call.elapsed_s - acted_s
        gateway.metrics.overhead.observe(call.overhead_s)
        if request.stream:
            await relay_stream(gateway, call, chat, format_of(chat.ticket), reader)
        else:
            await relay_whole(gateway, call, chat, format_of(chat.ticket), reader)


def wants_ids(call: Call) -> bool:
    """Whether the client can take up a broken stream: others may stumble over its events' ids."""
    return call.header(b"x-bunkhouse-resume") in RESUMES or bool(
        call.header(b"idempotency-key") or call.header(b"last-event-id")
    )


async def json_body(gateway: Gateway, call: Call) -> dict[str, object]:
    """What a client with a tenant's key sends. Raises Refused, QueueUnavailable, ClientGone."""
    refuse_while_draining(gateway)
    call.tenant = await gateway.directory.authenticate(call.authorization)
    refuse_internal_headers(call)
    bounds = gateway.config.gateway
    body = await call.body(bounds.body_bytes_max, bounds.request_read_s_max)
    return json_object(body, call.header(b"content-type"))


async def resume(gateway: Gateway, call: Call, chat_id: str) -> None:
    """GET /v1/chats/{id}/stream: the reply from Last-Event-ID on, also one that another gateway began."""
    refuse_while_draining(gateway)
    after = call.header(b"last-event-id") or call.query("last_event_id") or START
    if not ENTRY_ID.fullmatch(after):
        raise Refused(
            Code.INVALID_VALUE, "Last-Event-ID must be an event id of this host, such as 1-5.", param="last_event_id"
        )
    info = await _own_chat(gateway, call, chat_id, take=call.method != "HEAD")
    if call.method == "HEAD":
        await call.respond(200, b"", STREAM_HEAD)
        return
    call.overhead_s = call.elapsed_s
    chat = Admitted(info.ticket, after=after, waits=info.state == "waiting", resumable=True)
    include_usage = (call.query("include_usage") or "").lower() in ("1", "true")
    await relay_stream(gateway, call, chat, ChatCompletions(info.ticket, ids=True, include_usage=include_usage))


async def show(gateway: Gateway, call: Call, chat_id: str) -> None:
    """GET /v1/chats/{id}: where a chat is, with its completion once it is done."""
    info = await _own_chat(gateway, call, chat_id, take=False)
    shown: dict[str, object] = {
        "id": info.ticket.chat,
        "object": "chat",
        "created": int(info.ticket.created_s),
        "model": info.ticket.bot,
        "session": info.ticket.session,
        "state": info.state,
        "attempt": info.attempt,
        "kv_bits": info.kv_bits,
        "queue_ms": None if info.queue_s is None else round(info.queue_s * 1000, 1),
        "finish": info.finish,
        "completion": None,
    }
    if info.state == "done":
        entries = await _whole_reply(gateway, info)
        if entries and (end := entries[-1].end) is not None:
            try:
                shown["completion"] = orjson.Fragment(ChatCompletions(info.ticket).whole(entries, raise_for_end(end)))
            except Refused as refused:
                shown["error"] = {"code": refused.code.value, "message": refused.message}
    await call.respond_json(shown)


async def cancel(gateway: Gateway, call: Call, chat_id: str) -> None:
    """POST /v1/chats/{id}/cancel: end a chat wherever it is, whoever reads it. A chat that has ended stays as it is."""
    info = await _own_chat(gateway, call, chat_id, take=False)
    with gateway.breaker:
        await gateway.submissions.cancel(info.ticket, gateway.config.gateway.reply_keep_s, gateway.clock())
    await show(gateway, call, chat_id)


async def _own_chat(gateway: Gateway, call: Call, chat_id: str, *, take: bool) -> ChatInfo:
    call.tenant = await gateway.directory.authenticate(call.authorization)
    info = None
    if _CHAT_ID.fullmatch(chat_id):
        with gateway.breaker:
            info = await gateway.submissions.follow(chat_id, call.tenant, take=take)
    if info is None:
        raise Refused(Code.CHAT_NOT_FOUND, "This chat does not exist, or its reply is no longer kept.", param="id")
    call.chat = chat_id
    return info


async def _whole_reply(gateway: Gateway, info: ChatInfo) -> list[ReplyEntry]:
    with gateway.hub.follow(info.ticket.chat) as reader:
        return await reader.read(LOOK_UP_S_MAX)


def note_unknown(gateway: Gateway, call: Call, names: Sequence[str]) -> None:
    """Log and count the names of ignored parameters."""
    if names:
        gateway.metrics.unknown_parameters.inc(len(names))
        log.info("request.unknown_parameters", request=call.request_id, tenant=call.tenant, names=names)


def _idempotency_key(call: Call) -> str | None:
    key = call.header(b"idempotency-key")
    if key is not None and (len(key) > IDEMPOTENCY_KEY_CHARS_MAX or not key.isprintable()):
        raise Refused(Code.INVALID_VALUE, f"Idempotency-Key: at most {IDEMPOTENCY_KEY_CHARS_MAX} printable characters.")
    return key


def refuse_internal_headers(call: Call) -> None:
    """Names that this host speaks itself, and a client must not."""
    for name in call.headers:
        if name.startswith(OUR_HEADERS) and name not in CLIENT_HEADERS:
            shown = name.decode("latin-1")
            raise Refused(Code.UNSUPPORTED_PARAMETER, f"The header {shown} cannot be set by a client.", param=shown)


def refuse_while_draining(gateway: Gateway) -> None:
    if gateway.draining:
        raise Refused(
            Code.DRAINING,
            "This gateway is shutting down. Retry: another gateway takes over.",
            headers=((b"connection", b"close"),),
        )
