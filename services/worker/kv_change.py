"""A change of KV bits that costs no chat.

    live     the engine changes while chats run
    replace  a second engine starts beside the first, answers a probe chat, takes the new chats; the first ends after
             its last one
    drain    running chats finish, new ones wait in Redis, the engine restarts, answers a probe chat, goes on

The bits are written down as soon as the probe was answered. Where it is not, or the engine does not come up, the model
goes on with the bits it had; a worker that dies in the middle starts again with those that were written down last.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from services.contracts.chats import KvBits, Sampling
from services.contracts.engines import EngineFacts
from services.engines.base import Engine, EngineError, EngineRequest, EngineUnavailable
from services.worker.engine_supervisor import EngineSupervisor

DRAIN_POLL_S = 0.05
PROBE_TOKENS = 8
PROBE_S_MAX = 120.0

Report = Callable[[float, str], Awaitable[None]]  # progress 0 to 1, words
Prompt = Sequence[int] | str

log = structlog.get_logger()


class ChangeFailed(Exception):
    """The change was given up, and the model goes on with the bits it had. The message says why."""


class ChangeCancelled(ChangeFailed):
    """The change was cancelled in time."""


@dataclass(frozen=True)
class ChangeContext:
    """What a change needs of the worker."""

    supervisor: EngineSupervisor
    prompt: Prompt  # of the probe chat
    streaming: Callable[[Engine], int]  # chats that an engine works on
    verified: Callable[[KvBits], Awaitable[None]]  # writes the bits down
    say: Report
    cancelled: Callable[[], Awaitable[bool]]
    build: Callable[[KvBits], Engine] | None = None  # another engine for the same model


async def change_bits(context: ChangeContext, bits: KvBits, how: str) -> None:
    """Change, or raise ChangeFailed, or EngineGone if the engine does not start even with the old bits."""
    supervisor = context.supervisor
    async with supervisor.changing:
        if supervisor.facts.live_kv_bits:
            await _live(context, bits)
        elif how == "replace" and context.build is not None and not supervisor.suspended:
            await _replace(context, context.build(bits), bits)
        else:
            await _drain(context, bits)


async def _live(context: ChangeContext, bits: KvBits) -> None:
    supervisor, before = context.supervisor, context.supervisor.facts.kv_bits
    try:
        facts = await supervisor.engine.set_kv_bits(bits, _silent)
        await probe(supervisor.engine, facts, context.prompt)
    except EngineError as error:
        await context.say(0.9, f"going back to {before} bits")
        try:
            supervisor.open(await supervisor.engine.set_kv_bits(before, _silent))
        except EngineError as worse:
            log.error("engine.kv_bits_not_restored", bits=int(before), why=str(worse))
        raise ChangeFailed(str(error)) from error
    await context.verified(bits)
    supervisor.open(facts)


async def _replace(context: ChangeContext, fresh: Engine, bits: KvBits) -> None:
    supervisor = context.supervisor
    try:
        await context.say(0.2, f"a second engine starts with {bits} bits; chats go on")
        facts = await fresh.start(_silent)
        await context.say(0.6, "a probe chat")
        await probe(fresh, facts, context.prompt)
        if await context.cancelled():
            raise ChangeCancelled("cancelled; the second engine was ended")
    except EngineError as error:
        await fresh.stop()
        raise ChangeFailed(str(error)) from error
    except (ChangeCancelled, asyncio.CancelledError):
        await fresh.stop()
        raise
    await context.verified(bits)
    old = supervisor.engine
    supervisor.open(facts, fresh)
    await context.say(0.8, "new chats go to the second engine; the first finishes its own")
    try:
        await _finished(context, old)
    finally:
        await old.stop()


async def _drain(context: ChangeContext, bits: KvBits) -> None:
    supervisor, before = context.supervisor, context.supervisor.facts
    supervisor.hold()
    try:
        await _finished(context, supervisor.engine, cancellable=True)
    except ChangeCancelled:
        supervisor.open(before)
        raise
    await context.say(0.5, f"restarting with {bits} bits; new chats wait")
    try:
        facts = await supervisor.engine.set_kv_bits(bits, _silent)
        await context.say(0.8, "a probe chat")
        await probe(supervisor.engine, facts, context.prompt)
    except EngineError as error:
        await context.say(0.9, f"going back to {before.kv_bits} bits")
        await _back(supervisor, before)
        raise ChangeFailed(str(error)) from error
    await context.verified(bits)
    supervisor.open(facts)


async def _back(supervisor: EngineSupervisor, before: EngineFacts) -> None:
    """The engine as it was. Raises EngineGone."""
    try:
        supervisor.open(await supervisor.engine.set_kv_bits(before.kv_bits, _silent))
    except EngineError as error:
        log.warning("engine.kv_bits_not_restored", bits=int(before.kv_bits), why=str(error))
        await supervisor.start()


async def _finished(context: ChangeContext, engine: Engine, *, cancellable: bool = False) -> None:
    reported = -1
    while (left := context.streaming(engine)) > 0:
        if cancellable and await context.cancelled():
            raise ChangeCancelled("cancelled while chats were finishing")
        if left != reported:
            reported = left
            await context.say(0.3, f"{left} running {'chat' if left == 1 else 'chats'} to finish")
        await asyncio.sleep(DRAIN_POLL_S)


async def probe(engine: Engine, facts: EngineFacts, prompt: Prompt) -> int:
    """Have a short chat with an engine that serves no others yet. Returns tokens. Raises EngineError."""
    request = EngineRequest(
        chat=f"probe-{secrets.token_hex(6)}",
        prompt=prompt,
        max_tokens=PROBE_TOKENS,
        sampling=Sampling(temperature=0.0),
        salt="probe",
        kv_bits=facts.kv_bits,
    )
    tokens, finish = 0, None
    pieces = engine.stream(request)
    try:
        async with asyncio.timeout(PROBE_S_MAX):
            async for piece in pieces:
                tokens += piece.tokens
                finish = piece.finish or finish
    except TimeoutError:
        raise EngineUnavailable(f"the probe chat was not answered within {PROBE_S_MAX:.0f} s") from None
    finally:
        await pieces.aclose()  # type: ignore[attr-defined]  # an async generator: closing it frees its KV
    if not tokens or finish not in ("stop", "length"):
        raise EngineUnavailable(f"the probe chat ended with {tokens} tokens and finish {finish!r}")
    return tokens


def _silent(_words: str) -> None:
    """The engine's own words are dropped: the change reports its own."""
