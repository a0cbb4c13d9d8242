"""The one path from a checked request to a place in the wait queue: for the chat API, the widget and the playground."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from gateway.conversation import plain_messages
from gateway.directory import EngineNow, ServedBot
from gateway.knowledge.grounding import Grounded, grounded
from gateway.knowledge.refusals import refusal_of
from gateway.kv_policies import choose
from gateway.kv_policies.task_classifier import classify
from gateway.outcomes import Code, Refused
from gateway.prompt import Prompt
from gateway.request import ChatRequest
from gateway.state import Gateway
from services.config.api_keys import salt
from services.contracts.chats import KvBits, Payload, Task, Ticket
from services.contracts.replies import QUEUED
from services.store.charges import RateCharge, count_refusal, windows_of
from services.store.connection import QueueUnavailable
from services.store.replies import START
from services.store.submission import FurtherChat, Submission, Submitted
from services.tokenizer.chat_template import breaker

CHAT_PREFIX = "chatcmpl-"
STALE_TRIES_MAX = 5
LITERAL_TOKENS = 24  # around an answer that is held to a text, whose tokens are no more than its bytes
ABANDON_AFTER_S = (0.5, 1.0, 2.0)
PRIORITY_MIN = -10  # of a bot's settings, too

_HARMLESS = breaker()  # for another provider's model, whose control tokens are not known here
_WINDOWS = {
    "requests": (Code.RATE_LIMIT, "requests a minute", "limits.requests_per_minute"),
    "tokens": (Code.RATE_LIMIT, "tokens a minute", "limits.tokens_per_minute"),
    "month": (Code.QUOTA, "tokens a month", "limits.tokens_per_month"),
}


@dataclass(frozen=True, slots=True)
class BotTrial:
    """A question of a bot's test set. It is asked at these KV bits, behind the tenant's other chats, never at another
    provider, and usage counts it apart."""

    kv_bits: KvBits


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks for a chat. `tenant` is called again when the registry changed meanwhile."""

    tenant: Callable[[], Awaitable[str]]
    request_id: str
    session: str | None = None  # None: the chat is a session of its own
    idempotency_key: str | None = None
    asked: str = ""  # digest of what the client asked, where the host added to it
    limited: bool = True  # the chat is charged to the tenant's rate limits
    resumes: bool = False  # the client takes a broken stream up again
    trial: BotTrial | None = None  # the chat belongs to a run of the bot's test set

    @classmethod
    def of(
        cls, tenant: str, request_id: str, *, session: str, limited: bool = True, trial: BotTrial | None = None
    ) -> Caller:
        """A caller that is known otherwise than by a tenant's API key."""

        async def known() -> str:
            return tenant

        return cls(known, request_id, session, limited=limited, trial=trial)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A chat that waits or runs, and this client's share in it."""

    ticket: Ticket
    others: Sequence[Ticket] = ()  # of further answers to the same request
    after: str = START  # the client has read up to here
    waits: bool = True  # it was not dispatched yet when we last looked
    charge: RateCharge | None = None
    resumable: bool = False  # its client may come back: by Idempotency-Key, or since it said so
    reader: str = field(default_factory=lambda: secrets.token_hex(8))  # names this client's connection

    @property
    def tickets(self) -> Sequence[Ticket]:
        """Of all answers."""
        return (self.ticket, *self.others)


def new_chat_id() -> str:
    """192 random bits: knowing some ids does not help to guess another."""
    return CHAT_PREFIX + secrets.token_urlsafe(24)


async def submit(gateway: Gateway, caller: Caller, request: ChatRequest, chat: str, *more: str) -> Admitted:
    """Check a request against the registry and submit it as `chat`; again if the registry changed meanwhile.

    `more`: chats for further answers to it, as many for each prompt. A refusal is counted in the tenant's usage.
    Where Redis falls silent during the submission the chats are cancelled in the background. Raises Refused,
    QueueUnavailable.
    """
    key = caller.idempotency_key
    for _ in range(STALE_TRIES_MAX):
        tenant = await caller.tenant()
        (ticket, payload), further, version = await _prepare(gateway, tenant, request, caller, [chat, *more])
        limits = gateway.directory.limits(tenant)
        others = [other.ticket for other in further]
        tokens = ticket.tokens_max + sum(other.tokens for other in further)
        windows = windows_of(tenant, limits, tokens, ticket.created_s) if caller.limited else ()
        with gateway.breaker:
            try:
                submission = await gateway.submissions.submit(
                    ticket,
                    payload,
                    registry_version=version,
                    idempotency_key=key,
                    asked="" if key is None else caller.asked or request.digest,
                    windows=windows,
                    further=further,
                )
            except QueueUnavailable:
                grace_s = gateway.config.gateway.resume_grace_s if key is not None else 0.0
                for abandoned in (ticket, *others):
                    gateway.in_background(_abandon(gateway, abandoned, grace_s))
                raise
            if submission.outcome is Submitted.OK:
                resumable = caller.resumes or key is not None
                return Admitted(ticket, others, QUEUED, charge=submission.charge, resumable=resumable)
            if submission.outcome in (Submitted.SAME, Submitted.REUSED):
                return await _join(gateway, submission, tenant)
            if submission.outcome is not Submitted.STALE:
                refused = limit_refusal(submission.charge, ticket.created_s) or _full(submission)
                await count_refusal(gateway.connection, tenant, ticket.usage_bot, refused.code.value, ticket.created_s)
                raise refused
            await gateway.directory.reload()
    raise Refused(Code.QUEUE_UNAVAILABLE, "The host's configuration keeps changing. Try again.")


async def _prepare(
    gateway: Gateway, tenant: str, request: ChatRequest, caller: Caller, chats: Sequence[str]
) -> tuple[tuple[Ticket, Payload], list[FurtherChat], int]:
    """The first chat, the others, and the registry's version that they were made from. Raises Refused."""
    version, now_s = gateway.directory.version, gateway.clock()
    bot, engine = served(gateway, tenant, request.model)
    if gateway.engines.gave_up(bot.config.model) and bot.config.overflow is None:
        raise Refused(Code.MODEL_DOWN, "This bot's model is not running on this host.", param="model")
    task, opening = _task_of(bot, request), all(message.role != "assistant" for message in request.messages)
    refusal = refusal_of(bot.config, request)
    request = request if refusal is None else request.saying(refusal)
    known, prompts = await _grounded_prompts(gateway, bot, request, engine)
    request = known.request
    # Other providers get text alone, and no tests.
    elsewhere = bot.config.overflow is not None and request.is_plain and caller.trial is None
    overflow = elsewhere and await _has_money(gateway, tenant, now_s)
    prompt = prompts[0]
    ticket = _ticket_for(
        bot,
        engine,
        known,
        prompt,
        task=task,
        opening=opening,
        caller=caller,
        chat=chats[0],
        now_s=now_s,
        overflow=overflow,
    )
    if caller.trial is not None:
        ticket = _tried(ticket, caller.trial, engine)
    payload = Payload(
        prompt=prompt.content,
        salt=salt(tenant, gateway.secrets.salt),
        sampling=request.sampling,
        adapter=bot.config.adapter,
        messages=plain_messages(bot.config.system, request.messages, _HARMLESS) if elsewhere else (),
        output=prompt.output,
    )
    further = [] if len(chats) == 1 else _further(bot, request, prompts, chats, (ticket, payload))
    return (ticket, payload), further, version


async def _grounded_prompts(
    gateway: Gateway, bot: ServedBot, request: ChatRequest, engine: EngineNow
) -> tuple[Grounded, Sequence[Prompt]]:
    """The request with what the bot knows of it, where that fits; else as it is. Raises Refused."""
    known = await grounded(gateway, bot, request)
    try:
        return known, await gateway.prompts.prepare_all(_speaking(bot, request), known.request, engine)
    except Refused as refused:
        if refused.code is not Code.CONTEXT_LENGTH or known.request is request:
            raise
    return Grounded(request), await gateway.prompts.prepare_all(_speaking(bot, request), request, engine)


def _further(
    bot: ServedBot,
    request: ChatRequest,
    prompts: Sequence[Prompt],
    chats: Sequence[str],
    first: tuple[Ticket, Payload],
) -> list[FurtherChat]:
    """All chats of a request but the first. Raises Refused when an answer would not fit."""
    ticket, payload = first
    found: list[FurtherChat] = []
    for number, chat in enumerate(chats):
        at, choice = divmod(number, len(chats) // len(prompts))
        prompt, new = prompts[at], choice == 0
        if new:
            ticket = replace(ticket, prompt_tokens=prompt.tokens, max_tokens=_answer_tokens(bot, request, prompt))
        own = replace(payload, prompt=prompt.content) if new and number else None
        found.append(FurtherChat(replace(ticket, chat=chat, choice=choice), own))
    return found[1:]


def served(gateway: Gateway, tenant: str, name: str) -> tuple[ServedBot, EngineNow]:
    """A tenant's bot and its model. Raises Refused."""
    bot = gateway.directory.bot(tenant, name)
    engine = gateway.engines.get(bot.config.model)
    if engine is None:
        raise Refused(Code.MODEL_DOWN, "This bot's model is not configured on this host.", param="model")
    return bot, engine


def _speaking(bot: ServedBot, request: ChatRequest) -> ServedBot:
    """The bot with the request's own system prompt, where it has one; its prefix is another one, too."""
    if request.system is None:
        return bot
    return replace(bot, id=f"{bot.id}#host", config=bot.config.model_copy(update={"system": request.system}))


async def _has_money(gateway: Gateway, tenant: str, now_s: float) -> bool:
    """Whether a tenant may still spend on other providers this month."""
    most = gateway.directory.limits(tenant).overflow_usd_per_month
    return most is None or await gateway.submissions.spent_usd(tenant, now_s) < most


def _ticket_for(
    bot: ServedBot,
    engine: EngineNow,
    known: Grounded,
    prompt: Prompt,
    *,
    task: Task,
    opening: bool,
    caller: Caller,
    chat: str,
    now_s: float,
    overflow: bool,
) -> Ticket:
    """What the scheduler decides on. `overflow`: another provider may serve the chat; `opening`: nobody answered yet.

    Raises Refused when the answer would not fit.
    """
    try:
        wanted, floor, demotable = choose(bot.config.kv, task, engine)
    except ValueError as error:
        raise Refused(Code.KV_BITS, f"This bot's KV policy cannot be used: {error}", param="model") from None
    return Ticket(
        chat=chat,
        request=caller.request_id,
        tenant=bot.tenant,
        bot=bot.id,
        model=bot.config.model,
        session=caller.session or chat,
        prompt_tokens=prompt.tokens,
        max_tokens=_answer_tokens(bot, known.request, prompt),
        kv_bits=wanted,
        kv_bits_floor=floor,
        task=task,
        opening=opening,
        created_s=now_s,
        deadline_s=now_s + bot.config.queue_wait_s_max,
        priority=bot.config.priority,
        demotable=demotable,
        overflow=overflow,
        overflow_to=bot.config.overflow if overflow else None,
        sources=known.sources,
        missed=known.missed,
    )


def _tried(ticket: Ticket, trial: BotTrial, engine: EngineNow) -> Ticket:
    """The same at a test's KV bits. Raises Refused where the model does not hold them now."""
    bits = trial.kv_bits
    if bits not in engine.bits_available:
        held = ", ".join(map(str, engine.bits_available))
        raise Refused(Code.KV_BITS, f"{ticket.model} holds KV at {held} bits now, not {bits}.", param="kv_bits")
    return replace(ticket, kv_bits=bits, kv_bits_floor=bits, demotable=False, priority=PRIORITY_MIN, trial=True)


def _answer_tokens(bot: ServedBot, request: ChatRequest, prompt: Prompt) -> int:
    """What the answer may grow to. Raises Refused when the client wants more than the context leaves."""
    wanted = request.wanted_tokens
    if wanted is None and request.says:
        return min(len(request.says.encode()) + LITERAL_TOKENS, prompt.tokens_left)
    if wanted is None:
        return min(bot.config.answer_tokens_max, prompt.tokens_left)
    if request.capped:
        return min(wanted, prompt.tokens_left)
    if wanted > prompt.tokens_left:
        name = "max_completion_tokens" if request.max_completion_tokens else "max_tokens"
        raise Refused(
            Code.CONTEXT_LENGTH,
            f"This bot's context is {prompt.context_tokens} tokens, but {prompt.tokens + wanted} were requested "
            f"({prompt.tokens} in the messages, {wanted} in {name}). {name} may be at most {prompt.tokens_left} here.",
            param=name,
        )
    return wanted


def _task_of(bot: ServedBot, request: ChatRequest) -> Task:
    """What the chat asks for: as the client says, else as the bot says, else read from the last message."""
    if request.task is not None:
        return request.task
    if bot.config.task is not None:
        return Task(bot.config.task)
    asked = (message.text for message in reversed(request.messages) if message.role != "tool")
    return classify(next(asked, ""))[0]


async def _join(gateway: Gateway, submission: Submission, tenant: str) -> Admitted:
    """The chat that an Idempotency-Key stands for. Raises Refused when it stands for another question."""
    if submission.outcome is Submitted.REUSED:
        raise Refused(Code.IDEMPOTENCY_KEY, "This Idempotency-Key was used before for another request. Use a new one.")
    tickets: list[Ticket] = []
    for chat in (submission.chat, *submission.choices):
        info = await gateway.submissions.follow(chat, tenant, take=True)
        if info is None:
            raise Refused(
                Code.IDEMPOTENCY_KEY,
                "This Idempotency-Key was used before and its answer is no longer kept. Use a new one.",
            )
        tickets.append(info.ticket)
        waits = info.state == "waiting"
    return Admitted(tickets[0], tickets[1:], waits=waits, resumable=True)


async def _abandon(gateway: Gateway, ticket: Ticket, grace_s: float) -> None:
    """Cancel a chat whose submission was not answered: it may wait all the same, and nobody would read it.

    A client with an Idempotency-Key may come for it within `grace_s`, and must not find it cancelled.
    """
    await asyncio.sleep(grace_s)
    keep_s, reader = gateway.config.gateway.reply_keep_s, secrets.token_hex(8)
    for pause_s in ABANDON_AFTER_S:
        await asyncio.sleep(pause_s)
        with suppress(QueueUnavailable):
            if await gateway.submissions.cancel(ticket, keep_s, gateway.clock(), leaving=reader):
                return


def _full(submission: Submission) -> Refused:
    if submission.outcome is Submitted.TENANT_FULL:
        return Refused(Code.TENANT_QUEUE_FULL, f"{submission.place} of your chats are waiting already. Try again soon.")
    return Refused(Code.QUEUE_FULL, f"{submission.place} chats are waiting on this host. Try again soon.")


def limit_refusal(charge: RateCharge | None, now_s: float) -> Refused | None:
    """The refusal of a charge that exceeds a window; None where it exceeds none."""
    if charge is None or charge.refused is None:
        return None
    window = charge.refused
    code, what, param = _WINDOWS[window.what]
    used = charge.used[charge.windows.index(window)]
    if window.amount > window.most:
        message = f"This chat may take {window.amount} tokens, more than your {window.most} {what}. Lower max_tokens."
        wait_s = None
    else:
        wait_s = window.resets_s - now_s
        message = (
            f"Your limit is {window.most} {what}; {used} are taken and this chat asks for {window.amount}. "
            f"Try again in {math.ceil(wait_s)} s."
        )
    retry_s = wait_s if window.what != "month" else None
    return Refused(code, message, param=param, retry_after_s=retry_s, headers=tuple(limit_headers(charge, now_s)))


def limit_headers(charge: RateCharge | None, now_s: float) -> list[tuple[bytes, bytes]]:
    """x-ratelimit-{limit,remaining,reset}-{requests,tokens}; the month's quota has no header in OpenAI's API."""
    found: list[tuple[bytes, bytes]] = []
    for window, used in zip(charge.windows, charge.used, strict=True) if charge else ():
        if window.what == "month":
            continue
        what = window.what.encode()
        found += [
            (b"x-ratelimit-limit-" + what, b"%d" % window.most),
            (b"x-ratelimit-remaining-" + what, b"%d" % max(0, window.most - used)),
            (b"x-ratelimit-reset-" + what, b"%.3fs" % max(0.0, window.resets_s - now_s)),
        ]
    return found
