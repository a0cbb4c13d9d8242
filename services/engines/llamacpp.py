"""The llama.cpp side of the engine seam: real q8_0 and q4_0 KV caches on a machine with no GPU.

The server runs as `services.engines.llamacpp_server`. Its KV memory is `chats_max` slots of
`context_tokens` cells each; a chat has one slot to itself.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import psutil

from services.contracts.chats import KvBits
from services.contracts.engine_kinds import LLAMACPP
from services.contracts.engines import EngineFacts, EngineReport, EngineState
from services.engines.base import (
    EngineBusy,
    EngineRejected,
    EngineRequest,
    EngineStartError,
    EngineUnavailable,
    KvBitsUnsupported,
    Piece,
    Progress,
)
from services.engines.http import EngineHttp, EventStream, HttpStatusError
from services.engines.llamacpp_answer import AnswerEvents, completion_body, opening_pass, translated
from services.engines.llamacpp_server import KEY_VARIABLE, LISTENING, LOADING, ServerParameters
from services.engines.llamacpp_slots import Slots
from services.engines.server import ServerProcess
from services.model_files.gguf import GgufError, read_gguf

_KV_TYPES = {KvBits.SIXTEEN: "F16", KvBits.EIGHT: "Q8_0", KvBits.FOUR: "Q4_0"}
_WORDS = {LOADING: "loading weights"}
# ggml's threads spin at every barrier by default; two engines on the same cores then stand still for minutes.
_ENVIRONMENT = {"OMP_WAIT_POLICY": "passive"}
_HEALTH_S = 1.0
_REPORT_S = 5.0


@dataclass(frozen=True, slots=True)
class LlamaCppOptions:
    """How one model is served. `context_tokens` is of one chat, prompt and answer."""

    weights: Path
    log_path: Path
    kv_bits: KvBits = KvBits.EIGHT
    context_tokens: int = 4096
    chats_max: int = 8
    port: int = 0  # 0: any free one
    threads: int | None = None
    start_s_max: float = 120.0
    first_token_s_max: float = 300.0  # a prefill on a slow machine
    token_s_max: float = 120.0  # other slots' prefills on a busy machine come between two tokens
    stop_grace_s: float = 2.0


class LlamaCppEngine:
    """One llama.cpp server. See `services.engines.base.Engine`."""

    def __init__(self, model: str, options: LlamaCppOptions) -> None:
        self.model, self.options = model, options
        self._bits = options.kv_bits
        self._server = ServerProcess(f"llama.cpp ({model})", options.log_path, _WORDS, options.stop_grace_s)
        self._http: EngineHttp | None = None
        self._slots = Slots(options.chats_max)
        self._facts: EngineFacts | None = None
        self._asleep = False
        self._prefill = (0.0, 0.0)  # tokens, seconds: the server's counters at the last report

    @property
    def can_sleep(self) -> bool:
        """By ending the server; waking it takes a start, about a second for a small model."""
        return True

    async def start(self, progress: Progress) -> EngineFacts:
        """Bring the server up. Raises EngineStartError."""
        options = self.options
        try:
            model = read_gguf(options.weights).shape()
        except GgufError as error:
            raise EngineStartError(f"llama.cpp ({self.model}): {error}") from error
        context = LLAMACPP.context_tokens(options.context_tokens)
        parameters = ServerParameters(
            path=str(options.weights),
            context_tokens=context,
            slots=options.chats_max,
            kv_type=_KV_TYPES[self._bits],
            port=options.port,
            threads=options.threads or 0,
        )
        progress("starting llama.cpp")
        argv = [sys.executable, "-m", "services.engines.llamacpp_server", orjson.dumps(asdict(parameters)).decode()]
        key = secrets.token_hex()
        environment = {**_ENVIRONMENT, KEY_VARIABLE: key}
        port = await self._server.start(argv, environment, _listening, progress, options.start_s_max)
        # Its server closes a connection after each streamed answer, though its headers say otherwise.
        self._http = EngineHttp("127.0.0.1", port, key)
        self._slots = Slots(options.chats_max)
        self._prefill = (0.0, 0.0)
        self._asleep = False
        per_token = model.kv_bytes_per_token(LLAMACPP.value_bytes[self._bits])
        budget = per_token * context * options.chats_max  # windows and states are counted as overhead
        self._facts = EngineFacts(
            model=self.model,
            engine=LLAMACPP.name,
            weight_bytes=model.weight_bytes,
            overhead_bytes=max(0, self._resident_bytes() - model.weight_bytes - budget),
            kv_budget_bytes=budget,
            kv_bytes_per_token={int(self._bits): per_token},
            context_tokens=min(options.context_tokens, model.context_tokens),
            chats_max=options.chats_max,
            kv_bits=self._bits,
            routed_bytes=model.experts.bytes if model.experts else 0,
            routed_part=model.experts.part if model.experts else 1.0,
            layers=model.layers,
        )
        return self._facts

    async def report(self) -> EngineReport:
        """From /slots and /metrics. Raises EngineUnavailable."""
        if self._asleep:
            return EngineReport(self.model, time.time(), EngineState.ASLEEP)
        http, facts = self._up()
        try:
            slots = await http.get_json("/slots", _REPORT_S)
            metrics = _gauges(await http.get("/metrics", _REPORT_S))
            held = [int(slot.get("n_prompt_tokens", 0)) for slot in slots if slot["is_processing"]]
        except (HttpStatusError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise EngineUnavailable(f"llama.cpp ({self.model}): {error}") from error
        per_token = facts.kv_bytes_per_token[int(self._bits)]
        return EngineReport(
            model=self.model,
            at_s=time.time(),
            state=EngineState.READY,
            kv_used_bytes=sum(held) * per_token,
            kv_cached_bytes=self._slots.cached_tokens * per_token,
            running=len(held),
            queued=int(metrics.get("llamacpp:requests_deferred", 0)),
            **self._prefill_speed(metrics),
        )

    def stream(self, request: EngineRequest) -> AsyncIterator[Piece]:
        """Run one chat in a slot of its own. Raises EngineBusy when all are taken."""
        opening = opening_pass(request)
        return self._answer(request) if opening is None else self._answer_from(opening, request)

    async def _answer(self, request: EngineRequest) -> AsyncIterator[Piece]:
        http, facts = self._up()
        self._check(request, facts)
        slots = self._slots  # a start makes new ones, and this chat's slot is none of theirs
        taken = slots.take(request.salt, request.prompt)
        if taken is None:
            raise EngineBusy(f"llama.cpp ({self.model}): all {facts.chats_max} slots are taken")
        slot, reuse = taken
        body = completion_body(request, slot.number, reuse, facts.context_tokens)
        answer, released = AnswerEvents(self.model, request), False
        events: EventStream | None = None
        try:
            events = await http.open_events(
                "/completion", body, self.options.first_token_s_max, self.options.token_s_max
            )
            async for event in events:
                piece = answer.piece(event)
                if piece.finish and event["stop"]:  # else the server goes on for a moment and changes the slot's cells
                    slots.release(slot, (piece.prompt_tokens or 0) + answer.tokens)
                    released = True
                yield piece
                if piece.finish and not (released and http.keep):  # the end of the stream keeps the connection
                    return
            if not released:
                raise EngineUnavailable(f"llama.cpp ({self.model}): the stream ended without a finish")
        except HttpStatusError as error:
            raise translated(self.model, error.status, error.message) from error
        finally:
            if events is not None:
                events.close()
            if not released:
                slots.forget(slot)
                slots.release(slot, 0)

    async def _answer_from(self, opening: EngineRequest, request: EngineRequest) -> AsyncIterator[Piece]:
        """An answer whose beginning must not end, as two answers."""
        said, last = "", Piece()
        async for piece in self._answer(opening):
            said, last = said + piece.text, piece
            if piece.finish is None:
                yield piece
        left = request.max_tokens - opening.max_tokens
        if not left or (last.completion_tokens or 0) < opening.max_tokens:  # all of it, or the context ended before it
            yield last
            return
        yield last._replace(finish=None)
        prompt = (
            request.prompt + said if isinstance(request.prompt, str) else [*request.prompt, *await self.tokenize(said)]
        )
        rest = replace(request, prompt=prompt, max_tokens=left)
        rest = replace(rest, sampling=replace(request.sampling, min_tokens=0))
        async for piece in self._answer(rest):
            if piece.finish is None:
                yield piece
            else:
                total = (piece.completion_tokens or 0) + opening.max_tokens
                yield piece._replace(
                    prompt_tokens=last.prompt_tokens, cached_tokens=last.cached_tokens, completion_tokens=total
                )

    async def set_kv_bits(self, bits: KvBits, progress: Progress) -> EngineFacts:
        """By a restart."""
        if bits not in _KV_TYPES:
            raise KvBitsUnsupported(f"llama.cpp holds KV at 4, 8 and 16 bits, not {bits}")
        if bits == self._bits and self._facts is not None and self._server.running:
            return self._facts
        self._bits = KvBits(bits)
        await self.stop()
        return await self.start(progress)

    async def set_chat_kv_bits(self, chat: str, bits: KvBits) -> None:
        """Never: a server's slots share one precision. Raises KvBitsUnsupported."""
        raise KvBitsUnsupported(f"{self.model}: llama.cpp holds all chats at {self._bits} bits, {chat} too, not {bits}")

    async def sleep(self) -> None:
        """Ends the server."""
        await self.stop()
        self._asleep = True

    async def wake(self, progress: Progress) -> EngineFacts:
        """Starts the server again, at the KV bits it had."""
        return await self.start(progress)

    async def alive(self) -> bool:
        """Whether the server process runs and answers /health within a second."""
        if self._http is None or not self._server.running:
            return False
        try:
            await self._http.get("/health", _HEALTH_S)
        except (EngineUnavailable, HttpStatusError):
            return False
        return True

    async def stop(self) -> None:
        """End the server; running streams end with EngineUnavailable."""
        if self._http is not None:
            self._http.close()
        self._http = None
        await self._server.stop()

    async def tokenize(self, text: str) -> list[int]:
        """The server's own ids of `text`, special tokens parsed, no BOS added. Raises EngineUnavailable."""
        http, _ = self._up()
        body = {"content": text, "add_special": False, "parse_special": True}
        try:
            answer = await http.post_json("/tokenize", body, _REPORT_S)
            return [int(number) for number in answer["tokens"]]
        except (HttpStatusError, KeyError, TypeError, ValueError) as error:
            raise EngineUnavailable(f"llama.cpp ({self.model}): {error}") from error

    def _up(self) -> tuple[EngineHttp, EngineFacts]:
        if self._http is None or self._facts is None or not self._server.running:
            raise EngineUnavailable(f"llama.cpp ({self.model}): the server does not run")
        return self._http, self._facts

    def _check(self, request: EngineRequest, facts: EngineFacts) -> None:
        if request.kv_bits != self._bits:
            raise EngineRejected(f"{self.model} holds KV at {self._bits} bits, not {request.kv_bits}")
        if request.adapter is not None:
            raise EngineRejected(f"{self.model}: the llama.cpp engine serves no LoRA adapters")
        if not isinstance(request.prompt, str) and len(request.prompt) >= facts.context_tokens:
            raise EngineRejected(
                f"the prompt has {len(request.prompt)} tokens; {self.model} takes at most "
                f"{facts.context_tokens} for prompt and answer"
            )

    def _prefill_speed(self, metrics: dict[str, float]) -> dict[str, Any]:
        """Prompt tokens since the last report, and how many a second; cached ones do not count."""
        now = (
            metrics.get("llamacpp:prompt_tokens_total", 0.0),
            metrics.get("llamacpp:prompt_seconds_total", 0.0),
        )
        tokens, seconds = now[0] - self._prefill[0], now[1] - self._prefill[1]
        self._prefill = now
        speed = tokens / seconds if tokens > 0 and seconds > 0 else None
        return {"prefill_tokens_per_s": speed, "prefill_tokens": int(tokens)}

    def _resident_bytes(self) -> int:
        if self._server.pid is None:
            return 0
        try:
            return int(psutil.Process(self._server.pid).memory_info().rss)
        except psutil.NoSuchProcess:
            return 0


async def _listening(lines: list[str]) -> int | None:
    for line in lines:
        if line.startswith(LISTENING):
            return int(line.rpartition(":")[2])
    return None


def _gauges(text: bytes) -> dict[str, float]:
    """Prometheus lines without labels, by name."""
    pairs = (line.split() for line in text.decode().splitlines() if line and not line.startswith("#"))
    return {pair[0]: float(pair[1]) for pair in pairs if len(pair) == 2}
