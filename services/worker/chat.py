"""One chat in a worker's hands, from claim to settlement."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic

import structlog

from services.contracts.chats import ChatUsage, KvBits, OutputFormat, Payload, Sampling, TokenPrice
from services.contracts.replies import ContentKind, Finish, ReplyEnd, ReplyError
from services.engines.base import (
    Engine,
    EngineBusy,
    EngineRejected,
    EngineRequest,
    EngineUnavailable,
    Piece,
)
from services.store.connection import retried
from services.store.records import ClaimedChat
from services.store.work import ReplyPiece, Settled, WorkConsumer, Written
from services.tokenizer.tokenizer import Tokenizer
from services.worker.engine_supervisor import EngineSupervisor, LatencyWindow
from services.worker.parsers import machine_of
from services.worker.parsers.base import ContentParser, Parsed, Parser
from services.worker.reply_writer import ReplyWriter

ATTEMPTS_MAX = 4  # over all workers that had the chat, and
FAILURES_MIN = 2  # in this worker's engine: a killed worker says nothing about the chat
BUSY_S = 0.25
BUSY_TRIES_MAX = 120

_CONTENT = ContentKind.CONTENT  # an enum finds its members slowly

log = structlog.get_logger()


@dataclass
class WorkerContext:
    """What every chat of one worker shares."""

    work: WorkConsumer
    supervisor: EngineSupervisor
    writer: ReplyWriter
    latencies: LatencyWindow
    tokenizer: Tokenizer | None  # None: another provider's, who gets messages
    reply_keep_s: int
    clock: Callable[[], float]
    parser: Callable[[OutputFormat, str, str], Parser]  # of an answer, of a chat, after what was written of it
    price: TokenPrice  # what another provider takes


@dataclass
class RunningChat:
    """A chat under way. `cancel` and `fence` may be called at any time."""

    entry: str
    chat: str
    task: asyncio.Task[None] | None = None
    cancelled: bool = False
    fenced: bool = False
    engine: Engine | None = None  # that works on it now
    start: int = 0  # of that engine
    settling: bool = False
    stop_text: str = ""  # that ended the answer
    claim: ClaimedChat | None = None
    tokens: int = 0  # of the answer, over all attempts
    reasoning_tokens: int = 0  # of these
    prompt_tokens: int | None = None  # as the engine counts them
    cached_tokens: int | None = None
    queue_s: float = 0.0
    started_s: float = 0.0
    first_token_s: float | None = None
    byte_seconds: float = 0.0
    kv_bits: KvBits | None = None  # that it ran with last
    last_s: float = field(default=0.0)
    taken_s: float = field(default_factory=monotonic)

    def cancel(self) -> None:
        """Its client left."""
        stop = self.claim is not None and not (self.cancelled or self.settling)
        self.cancelled = True
        if stop and self.task:
            self.task.cancel()

    def fence(self) -> None:
        """Another worker has it: leave it alone from here on."""
        self.fenced = True
        if self.task:
            self.task.cancel()


async def run(running: RunningChat, context: WorkerContext) -> None:
    """Claim, stream, settle; again when the engine fails under it.

    Every way out settles the chat, so its client gets an answer or an error, except a fence and the worker's own end.
    A bug settles it, too: another worker would only meet the same bug.
    """
    try:
        end = await _attempts(running, context)
    except asyncio.CancelledError:
        if running.fenced or not running.cancelled:
            raise
        end = ReplyEnd(Finish.CANCELLED)
    except Exception:
        log.exception("chat.fault", chat=running.chat)
        end = _failure("engine_failed", "An internal error ended this chat.")
    if end is not None and running.claim is not None:
        running.settling = True
        await settle(running, running.claim, end, context)


async def _attempts(running: RunningChat, context: WorkerContext) -> ReplyEnd | None:
    """How the chat ends; None if it had ended before. `running.claim` is the last attempt's."""
    failures = 0
    while True:
        running.claim = None  # else a cancellation during the claim would leave the old one
        claim = running.claim = await retried(lambda: context.work.claim(running.entry, running.chat))
        if claim is None:
            return None
        running.byte_seconds = max(running.byte_seconds, claim.kv_byte_seconds)  # what was stored may lag behind
        try:
            return await _attempt(running, claim, context)
        except EngineUnavailable as error:
            await context.supervisor.suspect(running.start)
            log.warning("chat.retry", chat=running.chat, attempt=claim.attempt, why=str(error))
            failures += 1
            if claim.attempt >= ATTEMPTS_MAX and failures >= FAILURES_MIN:
                return _failure("engine_failed", f"The model failed {claim.attempt} times on this chat.")
            await context.writer.flush()  # the next claim would fence the rest of this attempt


async def _attempt(running: RunningChat, claim: ClaimedChat, context: WorkerContext) -> ReplyEnd:
    """One pass through the engine."""
    if claim.cancelled or running.cancelled:
        return ReplyEnd(Finish.CANCELLED)
    written = Written()
    if claim.attempt > 1:
        await context.writer.flush()
        written = await _written(running, context)
    if written.text and claim.payload.output.json_schema:  # a grammar begins at its beginning
        return _failure("engine_failed", "This answer keeps to a format and broke off half-way. Ask again.")
    left = claim.ticket.max_tokens - running.tokens
    if left <= 0:
        return ReplyEnd(Finish.LENGTH)
    output = _Output(context.writer, claim, running)
    for _ in range(BUSY_TRIES_MAX):
        await context.supervisor.usable()
        request = _request(running, claim, written.text, left, context)
        try:
            finish = await _stream(running, claim, request, output, context)
        except EngineBusy:
            await asyncio.sleep(BUSY_S)
            continue
        except EngineRejected as error:
            return _failure("engine_rejected", str(error))
        finally:
            context.latencies.ended(running.chat)
        if finish is not None:
            return ReplyEnd(finish, stop_text=running.stop_text if finish is Finish.STOP else "")
        await context.writer.flush()
        written = await _written(running, context)
        left = claim.ticket.max_tokens - running.tokens
    return _failure("engine_busy", "The model had no room for this chat.")


async def _written(running: RunningChat, context: WorkerContext) -> Written:
    """What there is of the answer in Redis, which is what counts from here on."""
    written = await retried(lambda: context.work.written(running.chat))
    running.tokens, running.reasoning_tokens = written.tokens, written.reasoning_tokens
    return written


class _Output:
    """What one attempt writes into the reply stream; `place` is that of its last piece.

    A constrained answer that nobody reads before its end is written at its end: should this attempt break off, the next
    one starts anew.
    """

    def __init__(self, writer: ReplyWriter, claim: ClaimedChat, running: RunningChat) -> None:
        self.place = 0
        self._writer = writer
        self._running = running
        self._chat, self._attempt = claim.ticket.chat, claim.attempt
        self._start = (int(claim.kv_bits), claim.queue_s) if claim.attempt == 1 else None
        output = claim.payload.output
        self._held: list[Parsed] | None = [] if output.whole and output.json_schema else None

    def relay(self, piece: Piece, parser: Parser, said: str) -> None:
        """Queue what a piece of the engine's is. `said`: what earlier attempts wrote."""
        if piece.prompt_logprobs and not said:  # else the first of the attempts gave them
            self.put((Parsed(ContentKind.PROMPT, "", 0, logprobs=piece.prompt_logprobs),))
        if self._held is not None or not isinstance(parser, ContentParser):
            self.put(parser.feed(piece.text, piece.tokens, piece.logprobs))
        elif piece.text or piece.tokens:  # most pieces, and there is one a token
            self.place = place = self.place + 1
            start, text, tokens = self._start if place == 1 else None, piece.text, piece.tokens
            line = ReplyPiece(self._chat, self._attempt, place, text, tokens, -1, start, _CONTENT, None, piece.logprobs)
            self._writer.put(line)

    def put(self, parts: Sequence[Parsed]) -> None:
        """Queue them in order."""
        if self._held is None:
            self._write(parts)
            return
        if not self.place:
            self._write([Parsed(ContentKind.CONTENT, "", 0)])  # a reader waits less long for one that has started
        self._held += parts

    def finish(self, parts: Sequence[Parsed]) -> None:
        """Queue the last ones, and what was held back."""
        held, self._held = self._held or [], None
        self._write([*held, *parts])

    def _write(self, parts: Sequence[Parsed]) -> None:
        for part in parts:
            self.place += 1
            if part.content is ContentKind.REASONING:
                self._running.reasoning_tokens += part.tokens
            start = self._start if self.place == 1 else None
            self._writer.put(
                ReplyPiece(
                    self._chat,
                    self._attempt,
                    self.place,
                    part.text,
                    part.tokens,
                    start=start,
                    content=part.content,
                    raw=part.raw,
                    logprobs=part.logprobs,
                )
            )


async def _stream(
    running: RunningChat, claim: ClaimedChat, request: EngineRequest, output: _Output, context: WorkerContext
) -> Finish | None:
    """Relay the engine's pieces to the writer. None: thoughts were ended, and the answer is to go on behind them.

    Raises EngineError.
    """
    per_token = context.supervisor.facts.kv_bytes_per_token
    parser = context.parser(claim.payload.output, running.chat, request.said)
    bounded = claim.payload.output.thinking_tokens_max is not None
    finish, before = Finish.STOP, output.place
    begin = running.last_s = monotonic()
    running.started_s = running.started_s or begin
    context.latencies.started(running.chat, claim.ticket.prompt_tokens)
    running.engine, running.kv_bits = context.supervisor.engine, request.kv_bits
    running.start = context.supervisor.starts
    pieces = running.engine.stream(request)
    try:
        async for piece in pieces:
            now = monotonic()
            held = claim.ticket.prompt_tokens + running.tokens
            bits = running.kv_bits or request.kv_bits  # it may have been lowered since it began
            running.byte_seconds += held * per_token[int(bits)] * (now - running.last_s)
            if piece.tokens:
                if running.first_token_s is None:
                    running.first_token_s = now - running.started_s
                    context.latencies.first(running.chat, context.clock(), now - begin, claim.ticket.prompt_tokens)
                elif output.place:
                    context.latencies.token(running.chat, context.clock(), now - running.last_s, piece.tokens)
            running.last_s = now
            running.tokens += piece.tokens
            output.relay(piece, parser, request.said)
            if not request.said:  # else the engine counts the answer's beginning as a part of the prompt
                running.prompt_tokens = piece.prompt_tokens or running.prompt_tokens
                running.tokens = piece.completion_tokens or running.tokens
            if piece.cached_tokens is not None and running.cached_tokens is None:
                running.cached_tokens = min(piece.cached_tokens, running.prompt_tokens or claim.ticket.prompt_tokens)
            if piece.finish:
                finish = Finish.LENGTH if piece.finish == "length" else Finish.STOP
                running.stop_text = piece.stop_text
            elif bounded and (closing := _thoughts_to_end(running, claim, parser, context)):
                output.put(closing)
                return None
        output.finish(parser.finish())
        if parser.called and finish is Finish.STOP:
            finish = Finish.TOOL_CALLS
        context.supervisor.proved()
    except EngineBusy as error:
        if output.place > before:  # what is written stays: the next attempt continues after it
            raise EngineUnavailable(str(error)) from error
        raise
    finally:
        running.engine = None
        await pieces.aclose()  # type: ignore[attr-defined]  # an async generator: closing it cancels the engine's work
    return finish


def _thoughts_to_end(
    running: RunningChat, claim: ClaimedChat, parser: Parser, context: WorkerContext
) -> Sequence[Parsed]:
    """What ends thoughts that have come to their most tokens, read as if the model had written it."""
    tokens_max = claim.payload.output.thinking_tokens_max
    if tokens_max is None or running.reasoning_tokens < tokens_max or not (text := parser.end_of_thoughts):
        return ()
    tokens = 1 if context.tokenizer is None else context.tokenizer.count(text)
    if running.tokens + tokens >= claim.ticket.max_tokens:
        return ()  # nothing could follow
    return parser.feed(text, tokens)


def _request(running: RunningChat, claim: ClaimedChat, text: str, left: int, context: WorkerContext) -> EngineRequest:
    """What the engine gets. Text that earlier attempts wrote becomes part of the prompt, so nothing is written twice.

    A chat that was admitted before the engine changed its KV bits runs with the engine's present bits. A chat that was
    lowered before the engine refused it stays low, as its reservation does.
    """
    payload, facts = claim.payload, context.supervisor.facts
    bits = min(claim.kv_bits, running.kv_bits or claim.kv_bits)
    prompt = payload.prompt
    if text and context.tokenizer is not None:
        prompt = prompt + text if isinstance(prompt, str) else [*prompt, *context.tokenizer.encode(text)]
    return EngineRequest(
        chat=claim.ticket.chat,
        prompt=prompt,
        max_tokens=left,
        sampling=_sampling(payload, running.tokens),
        salt=payload.salt,
        kv_bits=bits if int(bits) in facts.kv_bytes_per_token else facts.kv_bits,
        priority=claim.ticket.priority,
        adapter=payload.adapter,
        messages=payload.messages,
        said=text,
        special=_special(context.tokenizer, payload.output),
        json_schema=payload.output.json_schema,
    )


def _special(tokenizer: Tokenizer | None, output: OutputFormat) -> Sequence[str]:
    """Special tokens that the answer's parser has to see."""
    return () if tokenizer is None or machine_of(tokenizer.family, output) is None else tokenizer.special_markers


def _sampling(payload: Payload, written: int) -> Sampling:
    """How the rest of an answer is drawn. A constrained one ends where its schema does."""
    sampling = payload.sampling
    if payload.output.json_schema and (sampling.min_tokens or sampling.ignore_eos):
        return replace(sampling, min_tokens=0, ignore_eos=False)
    if sampling.min_tokens and written:
        return replace(sampling, min_tokens=max(0, sampling.min_tokens - written))
    return sampling


async def settle(running: RunningChat, claim: ClaimedChat, end: ReplyEnd, context: WorkerContext) -> None:
    """End the chat in Redis, after all its pieces are there."""
    await context.writer.flush()
    await close(running, claim, end, context)


async def close(running: RunningChat, claim: ClaimedChat, end: ReplyEnd, context: WorkerContext) -> None:
    """End the chat in Redis with what is written of it."""
    if claim.attempt > 1:  # a worker may have died with the answer written, or a part of it, and not billed
        await _written(running, context)
    usage, prompt_tokens = None, running.prompt_tokens or claim.ticket.prompt_tokens
    if running.tokens or (running.started_s and end.error is None):
        usage = ChatUsage(
            prompt_tokens=prompt_tokens,
            cached_tokens=running.cached_tokens or 0,
            completion_tokens=running.tokens,
            kv_bits=running.kv_bits or claim.kv_bits,
            kv_byte_seconds=running.byte_seconds,
            queue_s=claim.queue_s,
            first_token_s=running.first_token_s,
            cached_known=running.cached_tokens is not None,
            ran_s=monotonic() - running.taken_s if running.started_s else None,
            reasoning_tokens=min(running.reasoning_tokens, running.tokens),
            overflow_microusd=round(context.price.microusd(prompt_tokens, running.tokens)),
        )
    done = replace(end, usage=usage, served_by=context.work.served_by)
    settled = await retried(
        lambda: context.work.settle(
            claim.ticket, claim.attempt, done, usage=usage, keep_s=context.reply_keep_s, now_s=context.clock()
        )
    )
    if settled is not Settled.OK:
        log.info("chat.settled_elsewhere", chat=running.chat, answer=settled.value)
        return
    log.info(
        "chat.done",
        request=claim.ticket.request,
        chat=running.chat,
        tenant=claim.ticket.tenant,
        bot=claim.ticket.bot,
        finish=end.finish.value,
        attempt=claim.attempt,
        kv_bits=int(running.kv_bits or claim.kv_bits),
        prompt_tokens=prompt_tokens,
        completion_tokens=running.tokens,
        queue_ms=round(claim.queue_s * 1000),
    )


def _failure(code: str, message: str) -> ReplyEnd:
    return ReplyEnd(Finish.ERROR, error=ReplyError(code, message))
