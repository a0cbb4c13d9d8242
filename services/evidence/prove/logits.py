"""An engine's next-token distributions after given tokens, with the prefix in its quantized KV cache.

The prompt grows by one token a call and the engine keeps the prefix, so each call decodes one token against keys
and values that were quantized when they were stored: what a chat's own decoding does, and not what one pass over the
whole text would measure.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import orjson

from services.contracts.chats import KvBits
from services.engines.base import EngineUnavailable
from services.engines.http import EngineHttp, HttpStatusError
from services.engines.llamacpp_server import KEY_VARIABLE, LISTENING, ServerParameters
from services.engines.server import ServerProcess
from services.engines.sglang import SglangEngine
from services.engines.sglang_server import SglangOptions, SglangServer
from services.kvplanes.keys import extra_key

from .distances import Distribution
from .subject import Subject

TOP = 1000
KV_TYPES = {16: "F16", 8: "Q8_0", 4: "Q4_0"}
START_S_MAX = 120.0
CALL_S_MAX = 120.0
# llama.cpp lists no probabilities with a token that ends inside a character. The token is of no use here, so it is made
# to be this one: a bias changes what is drawn, and the listed probabilities are those before it.
DRAWN: list[list[object]] = [["a", 1000.0]]


class Logits(Protocol):
    """What `quality` needs of an engine."""

    async def after(self, tokens: Sequence[int], slot: int) -> Distribution:
        """The distribution of the token that follows. Calls with one `slot` share their prefix."""


class LlamaCppLogits:
    """A llama.cpp server of its own for one precision; use it as an async context manager.

    Raises EngineStartError from `async with`, EngineUnavailable from `after`.
    """

    def __init__(self, weights: Path, bits: int, context_tokens: int, slots: int, log_path: Path) -> None:
        self._parameters = ServerParameters(
            path=str(weights), context_tokens=context_tokens, slots=slots, kv_type=KV_TYPES[bits]
        )
        self._server = ServerProcess(f"llama.cpp ({bits} KV bits)", log_path, {}, 2.0)
        self._http: EngineHttp | None = None

    async def __aenter__(self) -> Self:
        argument = orjson.dumps(asdict(self._parameters)).decode()
        argv = [sys.executable, "-m", "services.engines.llamacpp_server", argument]
        key = secrets.token_hex()
        environment = {"OMP_WAIT_POLICY": "passive", KEY_VARIABLE: key}
        port = await self._server.start(argv, environment, _port, _silent, START_S_MAX)
        self._http = EngineHttp("127.0.0.1", port, key)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.stop()

    async def after(self, tokens: Sequence[int], slot: int) -> Distribution:
        body = {
            "prompt": list(tokens),
            "n_predict": 1,
            "n_probs": TOP,
            "samplers": [],
            "temperature": 1.0,
            "logit_bias": DRAWN,
            "cache_prompt": True,
            "id_slot": slot,
        }
        if self._http is None:
            raise EngineUnavailable("the server does not run")
        try:
            answer = await self._http.post_json("/completion", body, CALL_S_MAX)
        except HttpStatusError as error:
            raise EngineUnavailable(error.message) from error
        return _distribution(answer)


class SglangLogits:
    """An SGLang server of its own for one precision; use it as an async context manager.

    With KV planes the precision travels in `extra_key`, as it does for a chat. Raises as LlamaCppLogits does.
    """

    def __init__(self, model: str, options: SglangOptions, bits: KvBits) -> None:
        self._server = SglangServer(model, options)
        self._start_bits = options.kv_bits
        self._planes = options.kvplanes
        self._bits = bits

    async def __aenter__(self) -> Self:
        await self._server.start(self._start_bits, _silent)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.stop()

    async def after(self, tokens: Sequence[int], slot: int) -> Distribution:
        salt = f"prove-logits-{slot}"
        body = {
            "input_ids": list(tokens),
            "sampling_params": {"max_new_tokens": 1, "temperature": 1.0},
            "return_logprob": True,
            "logprob_start_len": -1,
            "top_logprobs_num": TOP,
            "extra_key": extra_key(salt, self._bits) if self._planes else salt,
        }
        if self._server.http is None:
            raise EngineUnavailable("the server does not run")
        try:
            answer = await self._server.http.post_json("/generate", body, CALL_S_MAX)
            return {entry[1]: entry[0] for entry in answer["meta_info"]["output_top_logprobs"][0]}
        except HttpStatusError as error:
            raise EngineUnavailable(error.message) from error
        except (KeyError, IndexError, TypeError) as error:
            raise EngineUnavailable(f"an answer without probabilities: {error!r}") from error


def logits_of(subject: Subject, bits: int, context_tokens: int, slots: int) -> LlamaCppLogits | SglangLogits:
    """The subject's own engine, not started, for `slots` texts of `context_tokens`. Raises ConfigError."""
    engine = subject.engine(bits, chats=slots)
    if not isinstance(engine, SglangEngine):
        log = subject.folder / "logs" / f"prove-logits-{bits}.log"
        return LlamaCppLogits(subject.weights, bits, context_tokens, slots, log)
    options = replace(engine.options, context_tokens=context_tokens, kv_tokens=slots * context_tokens)
    return SglangLogits(subject.name, options, KvBits(bits))


def _distribution(answer: Any) -> Distribution:
    try:
        listed = answer["completion_probabilities"][0]["top_logprobs"]
        return {entry["id"]: entry["logprob"] for entry in listed if entry["logprob"] is not None}
    except (KeyError, IndexError, TypeError) as error:
        raise EngineUnavailable(f"an answer without probabilities: {error!r}") from error


async def _port(lines: list[str]) -> int | None:
    found = (line for line in lines if line.startswith(LISTENING))
    return next((int(line.rpartition(":")[2]) for line in found), None)


def _silent(_words: str) -> None:
    pass
