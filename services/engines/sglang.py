"""The SGLang side of the engine seam: the engine for a GPU; on a CPU it proves this code without one.

Version 0.5.17 only, in an environment of its own (`python`). Streams go through /generate with token ids; what SGLang
caches is kept apart by `extra_key`, "<salt>|kv<bits>|".
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson

from services.contracts.chats import KvBits, Sampling
from services.contracts.engines import EngineFacts, EngineReport, EngineState
from services.engines.base import (
    UNLIKELY,
    EngineBusy,
    EngineError,
    EngineRejected,
    EngineRequest,
    EngineUnavailable,
    KvBitsUnsupported,
    Logprob,
    Piece,
    Progress,
    TokenLogprob,
    encode_logprobs,
)
from services.engines.http import EngineHttp, EventStream, HttpStatusError
from services.engines.sglang_flags import DETERMINISTIC
from services.engines.sglang_server import SglangOptions, SglangServer
from services.kvplanes.control import ControlError
from services.kvplanes.keys import extra_key

_CALL_S = 5.0
_SLEEP_S = 60.0
_SNAPSHOT_S_MAX = 60.0  # the scheduler writes one each step and each idle second; a prefill on a CPU takes many


class SglangEngine:
    """One SGLang server. See `services.engines.base.Engine`."""

    def __init__(self, model: str, options: SglangOptions) -> None:
        self.model, self.options = model, options
        self._server = SglangServer(model, options)
        self._bits = options.kv_bits
        self._facts: EngineFacts | None = None
        self._asleep = False
        self._requests: dict[str, str] = {}  # chat -> SGLang's rid
        self._counted: dict[str, KvBits] = {}  # chat -> bits that its memory is reserved for
        self._numbers = itertools.count(1)
        self._aborts: set[asyncio.Task[None]] = set()
        self._cached_tokens = 0  # at most so many; the pool evicts them when it needs room
        self._counters: dict[str, float] = {}

    @property
    def can_sleep(self) -> bool:
        """Whether it was started with SGLang's memory saver, which needs a GPU."""
        return self._server.can_sleep

    async def start(self, progress: Progress) -> EngineFacts:
        """Raises EngineStartError with what is missing and the last log lines, KvBitsUnsupported."""
        self._facts = await self._server.start(self._bits, progress)
        self._asleep = False
        self._cached_tokens = 0
        self._counters = {}
        return self._facts

    async def report(self) -> EngineReport:
        """From /v1/loads, and from KV planes where they are on. Raises EngineUnavailable."""
        if self._asleep:
            return EngineReport(self.model, time.time(), EngineState.ASLEEP)
        http, facts = self._up()
        load = await self._load(http)
        used, cached = await self._held(facts, load["num_used_tokens"])
        return EngineReport(
            model=self.model,
            at_s=load["timestamp"],
            state=EngineState.READY,
            kv_used_bytes=used,
            kv_cached_bytes=cached,
            running=load["num_running_reqs"],
            queued=load["num_waiting_reqs"],
            step_kv_bytes=used,
            **self._speeds(load),
        )

    async def stream(self, request: EngineRequest) -> AsyncIterator[Piece]:
        """Run one chat. SGLang queues what it has no room for."""
        http, facts = self._up()
        rid = f"{request.chat}.{next(self._numbers)}"  # SGLang may still work on an earlier try of the same chat
        body = self._body(request, rid, facts)
        finished, tokens = False, 0
        events: EventStream | None = None
        self._requests[request.chat] = rid
        self._counted[request.chat] = request.kv_bits
        try:
            events = await http.open_events("/generate", body, self.options.first_token_s_max, self.options.token_s_max)
            async for event in events:
                piece = self._piece(event, tokens)
                tokens += piece.tokens
                finished = piece.finish is not None
                if finished:
                    self._cached_tokens += (piece.prompt_tokens or 0) - (piece.cached_tokens or 0) + tokens
                yield piece
            if not finished:
                raise EngineUnavailable(f"SGLang ({self.model}): the stream ended without a finish")
        except HttpStatusError as error:
            raise self._translate(error.status, error.message) from error
        finally:
            if events is not None:
                events.close()
            if self._requests.get(request.chat) == rid:
                del self._requests[request.chat], self._counted[request.chat]
            if not finished:
                self._abort(http, rid)

    def memory_bytes(self) -> int:
        """Memory that the server's processes hold now. 0 where NVML does not say."""
        return self._server.memory_bytes()

    async def set_kv_bits(self, bits: KvBits, progress: Progress) -> EngineFacts:
        """Live with KV planes, else by a restart.

        4 demotes every chat that SGLang has now. 8 is for new chats: it raises only those running chats whose memory is
        still reserved at 8 bits, as after a change to 4 that failed.
        """
        self._server.check_bits(bits)
        if self._server.control is not None and self._facts is not None and self._server.running:
            if bits == KvBits.FOUR:
                await self._change(bits)
            else:
                for rid in [self._requests[chat] for chat, counted in self._counted.items() if counted == bits]:
                    await self._change(bits, rid)
            self._bits = KvBits(bits)
            self._facts = replace(self._facts, kv_bits=self._bits)
            return self._facts
        if bits == self._bits and self._facts is not None and self._server.running:
            return self._facts
        self._bits = KvBits(bits)
        return await self.start(progress)

    async def set_chat_kv_bits(self, chat: str, bits: KvBits) -> None:
        """One running chat, live. Unknown chats are no error.

        Raises KvBitsUnsupported without KV planes, EngineUnavailable for a chat on its way to SGLang or out of it.
        """
        self._server.check_bits(bits)
        rid = self._requests.get(chat)
        if rid is None and self._server.control is not None:
            return
        changed = await self._change(bits, rid)
        now = self._requests.get(chat)
        if now is None:
            return  # it ended
        if now != rid:
            raise EngineUnavailable(f"SGLang ({self.model}): chat {chat} was sent again meanwhile")
        if not changed:
            raise EngineUnavailable(f"SGLang ({self.model}): it does not have chat {chat}")
        self._counted[chat] = bits

    async def sleep(self) -> None:
        """Release weights (a copy stays in host memory) and KV pool. Cached prefixes are lost."""
        if not self.can_sleep:
            raise EngineRejected(f"{self.model} was started without the memory saver; it cannot sleep")
        http, _ = self._up()
        await self._call(http, "/flush_cache", {}, _CALL_S)
        await self._call(http, "/release_memory_occupation", {}, _SLEEP_S)
        self._cached_tokens = 0
        self._asleep = True

    async def wake(self, progress: Progress) -> EngineFacts:
        """Undo `sleep`; starts the server where it died in its sleep."""
        http, facts = self._server.http, self._facts
        if http is None or facts is None or not self._server.running:
            return await self.start(progress)
        progress("waking up")
        await self._call(http, "/resume_memory_occupation", {}, _SLEEP_S)
        self._asleep = False
        return facts

    async def alive(self) -> bool:
        """The server answers within a second and its scheduler has taken a step in the last minute."""
        http = self._server.http
        if http is None or not self._server.running:
            return False
        try:
            await http.get("/health", 1.0)
            if not self._asleep:
                await self._load(http)
        except (EngineUnavailable, HttpStatusError):
            return False
        return True

    async def stop(self) -> None:
        """End the whole process group."""
        for task in self._aborts:
            task.cancel()
        await self._server.stop()

    def _up(self) -> tuple[EngineHttp, EngineFacts]:
        http = self._server.http
        if http is None or self._facts is None or not self._server.running:
            raise EngineUnavailable(f"SGLang ({self.model}): the server does not run")
        if self._asleep:
            raise EngineUnavailable(f"SGLang ({self.model}): the model sleeps")
        return http, self._facts

    def _body(self, request: EngineRequest, rid: str, facts: EngineFacts) -> dict[str, object]:
        if int(request.kv_bits) not in facts.kv_bytes_per_token or (
            request.kv_bits != self._bits and not facts.live_kv_bits
        ):
            raise EngineRejected(f"{self.model} holds KV at {self._bits} bits, not {request.kv_bits}")
        if isinstance(request.prompt, str):
            prompt: dict[str, object] = {"text": request.prompt}
            room = request.max_tokens
        else:
            prompt = {"input_ids": list(request.prompt)}
            room = facts.context_tokens - len(request.prompt)
            if room < 1:
                raise EngineRejected(
                    f"the prompt has {len(request.prompt)} tokens; {self.model} takes at most "
                    f"{facts.context_tokens} for prompt and answer"
                )
        sampling = _sampling(request.sampling, min(request.max_tokens, room))
        sampling["skip_special_tokens"] = not request.special  # all or none; the one that ends the answer is cut off
        if DETERMINISTIC in self.options.flags:
            # SGLang then draws for every request from its seed, and gives all that have none the same one.
            seed = secrets.randbits(63) if request.sampling.seed is None else request.sampling.seed % (1 << 63)
            sampling["sampling_seed"] = seed
        if request.json_schema:
            sampling["json_schema"] = request.json_schema
        body = {
            **prompt,
            "rid": rid,
            "stream": True,
            "sampling_params": sampling,
            "priority": request.priority,
            "no_logs": True,
        }
        if request.sampling.top_logprobs is not None:
            body |= {"return_logprob": True, "return_text_in_logprobs": True}
            body["top_logprobs_num"] = request.sampling.top_logprobs
        if request.sampling.prompt_logprobs:
            body["logprob_start_len"] = 0
        if facts.live_kv_bits:
            body["extra_key"] = extra_key(request.salt, request.kv_bits)
        else:
            body["extra_key"] = f"{request.salt}|kv{int(request.kv_bits)}|"
        if request.adapter is not None:
            if request.adapter not in self.options.adapters:
                raise EngineRejected(f"SGLang ({self.model}): adapter {request.adapter!r} is not loaded")
            body["lora_path"] = request.adapter
        return body

    def _piece(self, event: dict[str, Any], tokens_before: int) -> Piece:
        if "error" in event:
            error = event["error"] if isinstance(event["error"], dict) else {}
            raise self._translate(error.get("code", 500), str(error.get("message", event["error"])))
        try:
            meta = event["meta_info"]
            finish = meta["finish_reason"]
            tokens = meta["completion_tokens"] - tokens_before
            logprobs = _logprobs(meta, finish) if "output_token_logprobs" in meta else ""
            prompt = _prompt_logprobs(meta) if not tokens_before and meta.get("input_token_logprobs") else ""
            if finish is None:
                return Piece(text=event["text"], tokens=tokens, logprobs=logprobs, prompt_logprobs=prompt)
            if finish["type"] == "abort":
                raise self._translate(finish.get("status_code") or 500, str(finish.get("message", "aborted")))
            return Piece(
                text=event["text"],
                tokens=tokens,
                finish=finish["type"],
                prompt_tokens=meta["prompt_tokens"],
                cached_tokens=meta["cached_tokens"],
                completion_tokens=meta["completion_tokens"],
                logprobs=logprobs,
                prompt_logprobs=prompt,
                stop_text=_stop_text(finish),
            )
        except (KeyError, TypeError) as error:
            raise EngineUnavailable(f"SGLang ({self.model}): an event without {error}: {event}") from error

    def _translate(self, status: int, message: str) -> EngineError:
        words = f"SGLang ({self.model}): {message}"
        if status in {429, 503}:
            return EngineBusy(words)
        return EngineRejected(words) if 400 <= status < 500 else EngineUnavailable(words)

    def _abort(self, http: EngineHttp, rid: str) -> None:
        """Tell SGLang at once, without waiting; it would notice the closed connection seconds later."""

        async def tell() -> None:
            with suppress(EngineUnavailable, HttpStatusError):
                await http.post("/abort_request", {"rid": rid}, _CALL_S)

        task = asyncio.create_task(tell())
        self._aborts.add(task)
        task.add_done_callback(self._aborts.discard)

    async def _load(self, http: EngineHttp) -> dict[str, Any]:
        """The scheduler's last snapshot. Raises EngineUnavailable when it is too old or makes no sense."""
        try:
            answer = await http.get_json("/v1/loads?include=core", _CALL_S)
            load: dict[str, Any] = answer["loads"][0]
            age_s = time.time() - load["timestamp"]
        except HttpStatusError as error:
            raise EngineUnavailable(f"SGLang ({self.model}): {error}") from error
        except (KeyError, IndexError, TypeError) as error:
            raise EngineUnavailable(f"SGLang ({self.model}): no load in {error}") from error
        if age_s > _SNAPSHOT_S_MAX:
            raise EngineUnavailable(f"SGLang ({self.model}): its scheduler has not moved for {age_s:.0f} s")
        return load

    def _speeds(self, load: dict[str, Any]) -> dict[str, Any]:
        """Mean step and prefill speed since the last report, from counters that only grow."""
        moments = load.get("decode_moments") or [0.0] * 6
        now = {
            "steps": moments[0],
            "step_us": moments[2],
            "prefill": load.get("total_prefill_uncached_tokens", 0),
            "prefill_us": load.get("total_prefill_busy_us", 0),
        }
        past = {name: value - self._counters.get(name, 0) for name, value in now.items()} if self._counters else {}
        self._counters = now
        steps, prefill_us = past.get("steps", 0), past.get("prefill_us", 0)
        return {
            "inter_token_s": past["step_us"] / steps / 1e6 if steps > 0 else None,
            "prefill_tokens_per_s": past["prefill"] / prefill_us * 1e6 if prefill_us > 0 else None,
            "prefill_tokens": past.get("prefill", 0),
        }

    async def _held(self, facts: EngineFacts, running_tokens: int) -> tuple[int, int]:
        """Bytes of running chats, and bytes of prefixes kept for reuse. Raises EngineUnavailable."""
        control = self._server.control
        if control is None:
            per_token = facts.kv_bytes_per_token[int(self._bits)]
            pool_tokens = facts.kv_budget_bytes // per_token
            self._cached_tokens = min(self._cached_tokens, max(0, pool_tokens - running_tokens))
            return running_tokens * per_token, self._cached_tokens * per_token
        try:
            planes = await control.report()
            held, tokens = int(planes["bytes"]["used"]), sum(planes["tokens"].values())
        except (ControlError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise EngineUnavailable(f"SGLang ({self.model}): {error}") from error
        # SGLang counts the running chats' tokens and does not name them, so bytes are split in proportion.
        used = held * min(running_tokens, tokens) // tokens if tokens else 0
        return used, held - used

    async def _change(self, bits: KvBits, rid: str | None = None) -> int:
        """How many of SGLang's requests have these bits now; all of them are asked where `rid` names none."""
        control = self._server.control
        if control is None:
            raise KvBitsUnsupported(f"{self.model} runs without KV planes: its chats cannot change bits")
        try:
            answer = await (control.demote(rid=rid) if bits == KvBits.FOUR else control.promote(rid=rid))
            return int(answer["sessions"])
        except (ControlError, KeyError, TypeError, ValueError) as error:
            raise EngineUnavailable(f"SGLang ({self.model}): {error}") from error

    async def _call(self, http: EngineHttp, path: str, body: dict[str, object], timeout_s: float) -> None:
        try:
            await http.post(path, body, timeout_s)
        except HttpStatusError as error:
            raise EngineUnavailable(f"SGLang ({self.model}): {path}: {error.message}") from error


def _sampling(sampling: Sampling, max_tokens: int) -> dict[str, object]:
    """OpenAI's parameters, and those that SGLang adds to them. A seed counts only with DETERMINISTIC."""
    return {
        "max_new_tokens": max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or -1,
        "min_p": sampling.min_p,
        "stop": list(sampling.stop),
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "repetition_penalty": sampling.repetition_penalty,
        "logit_bias": {str(token): bias for token, bias in sampling.logit_bias} or None,
        "min_new_tokens": min(sampling.min_tokens, max_tokens),
        "ignore_eos": sampling.ignore_eos,
        "stop_token_ids": list(sampling.stop_token_ids) or None,
    }


def _stop_text(finish: Mapping[str, Any]) -> str:
    """The stop text that ended an answer. SGLang names a token by its id."""
    matched = finish.get("matched")
    return matched if isinstance(matched, str) else ""


def _logprobs(meta: Mapping[str, Any], finish: Mapping[str, Any] | None) -> str:
    """Those of one event, without that of the token that ended the answer."""
    drawn = meta["output_token_logprobs"]
    if finish is not None and isinstance(finish.get("matched"), int):
        drawn = drawn[:-1]
    return encode_logprobs(_token_logprobs(drawn, meta.get("output_top_logprobs")))


def _prompt_logprobs(meta: Mapping[str, Any]) -> str:
    """Those of the prompt's tokens. Nothing comes before the first, so its own is null."""
    (_, _, first), *others = meta["input_token_logprobs"]
    begin = {"token": first, "logprob": None, "bytes": list(first.encode()), "top_logprobs": []}
    return orjson.dumps([begin, *_token_logprobs(others, (meta.get("input_top_logprobs") or [])[1:])]).decode()


_Item = tuple[float | None, int, str]  # SGLang's: the logprob, the token's id and text


def _token_logprobs(items: Sequence[_Item], ranked: Sequence[Sequence[_Item] | None] | None) -> list[TokenLogprob]:
    """`ranked`: the likeliest in the place of each; empty where none were asked for."""
    return [
        TokenLogprob(*_logprob(item), [Logprob(*_logprob(other)) for other in top or ()])
        for item, top in zip(items, ranked or itertools.repeat(None), strict=False)
    ]


def _logprob(item: _Item) -> tuple[str, float, list[int]]:
    """SGLang names a part of a character by U+FFFD; JSON has no number for the logarithm of 0."""
    logprob, _, token = item
    return token, UNLIKELY if logprob is None else logprob, list(token.encode())
