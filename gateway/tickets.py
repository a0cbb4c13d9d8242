"""A checked request becomes a ticket for the scheduler and a payload for the worker."""

from __future__ import annotations

import secrets

from gateway.directory import ServedBot
from gateway.engines import EngineNow
from gateway.kv_policies.chat_bits import choose
from gateway.kv_policies.task_classifier import classify
from gateway.outcomes import Code, Refused
from gateway.prompt import Prompt, conversation
from gateway.request import ChatRequest
from services.contracts.chats import Payload, Task, Ticket
from services.tokenizer.control_tokens import breaker

CHAT_PREFIX = "chatcmpl-"


def new_chat_id() -> str:
    """192 random bits: knowing some ids does not help to guess another."""
    return CHAT_PREFIX + secrets.token_urlsafe(24)


def answer_tokens(bot: ServedBot, request: ChatRequest, prompt: Prompt) -> int:
    """What the answer may grow to. Raises Refused when the client wants more than the context leaves."""
    wanted = request.wanted_tokens
    if wanted is None:
        return min(bot.config.max_tokens_default, prompt.room)
    if wanted > prompt.room:
        name = "max_completion_tokens" if request.max_completion_tokens else "max_tokens"
        raise Refused(
            Code.CONTEXT_LENGTH,
            f"This bot's context is {prompt.context_tokens} tokens, but {prompt.tokens + wanted} were asked for "
            f"({prompt.tokens} in the messages, {wanted} in {name}). {name} may be {prompt.room} at most here.",
            param=name,
        )
    return wanted


def task_of(bot: ServedBot, request: ChatRequest) -> Task:
    """What the chat asks for: the client's word, else the bot's, else read from the last message."""
    if request.task is not None:
        return request.task
    if bot.config.task is not None:
        return Task(bot.config.task)
    return classify(request.messages[-1].text)[0]


def ticket_for(
    chat: str,
    bot: ServedBot,
    engine: EngineNow,
    request: ChatRequest,
    prompt: Prompt,
    *,
    session: str,
    call: str,
    now_s: float,
    overflow: bool,
) -> Ticket:
    """The ticket. `overflow`: the bot allows another provider and the tenant has money left for it.

    Raises Refused when the answer would not fit.
    """
    task = task_of(bot, request)
    try:
        wanted, floor, demotable = choose(bot.config.kv, task, engine)
    except ValueError as error:
        raise Refused(Code.KV_BITS, f"This bot's KV policy cannot be used: {error}", param="model") from None
    return Ticket(
        chat=chat,
        request=call,
        tenant=bot.tenant,
        bot=bot.id,
        model=bot.config.model,
        session=session,
        prompt_tokens=prompt.tokens,
        max_tokens=answer_tokens(bot, request, prompt),
        kv_bits=wanted,
        kv_bits_floor=floor,
        task=task,
        created_s=now_s,
        deadline_s=now_s + bot.config.queue_wait_s_max,
        priority=bot.config.priority,
        demotable=demotable,
        overflow=overflow,
        overflow_to=bot.config.overflow if overflow else None,
        opening=all(message.role != "assistant" for message in request.messages),
    )


_HARMLESS = breaker()  # to another provider's model, whose tokens we do not know


def payload_for(bot: ServedBot, request: ChatRequest, prompt: Prompt, salt: str) -> Payload:
    """What the worker reads."""
    return Payload(
        prompt=prompt.content,
        salt=salt,
        sampling=request.sampling,
        adapter=bot.config.adapter,
        messages=conversation(bot.config.system, request, _HARMLESS) if bot.config.overflow is not None else (),
    )
