"""What llama.cpp is asked for one answer, and what its events say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from services.contracts.chats import Sampling
from services.engines.base import (
    UNLIKELY,
    EngineBusy,
    EngineError,
    EngineRejected,
    EngineRequest,
    EngineUnavailable,
    Logprob,
    Piece,
    TokenLogprob,
    encode_logprobs,
)

# Otherwise small models fill answers with blank lines.
COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_JSON_BEGINS = '{["-0123456789tfn'  # and nothing else does


def translated(model: str, status: int, message: str) -> EngineError:
    """An error that the server answered with."""
    words = f"llama.cpp ({model}): {message}"
    if status == 503:
        return EngineBusy(words)
    return EngineRejected(words) if 400 <= status < 500 else EngineUnavailable(words)


def completion_body(request: EngineRequest, slot: int, reuse: bool, context_tokens: int) -> dict[str, object]:
    """Of POST /completion."""
    body = {
        **_sampling(request.sampling, context_tokens),
        "prompt": request.prompt if isinstance(request.prompt, str) else list(request.prompt),
        "n_predict": request.max_tokens,
        "id_slot": slot,
        "cache_prompt": reuse,
        "preserved_tokens": list(request.special),
        "stream": True,
    }
    if request.json_schema:
        body["json_schema"] = {**orjson.loads(request.json_schema), "x-guidance": COMPACT}
    return body


def _sampling(sampling: Sampling, context_tokens: int) -> dict[str, object]:
    """OpenAI's parameters with OpenAI's meaning: only these samplers, temperature before those that cut.

    llama.cpp's penalties count the prompt's tokens too; the window is the whole context, as in OpenAI's.
    """
    found: dict[str, object] = {
        "samplers": ["penalties", "temperature", "top_k", "top_p", "min_p"],
        "temperature": sampling.temperature,
        "top_k": sampling.top_k or 0,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repetition_penalty,
        "repeat_last_n": context_tokens,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "seed": -1 if sampling.seed is None else sampling.seed % 0xFFFF_FFFF,
        "stop": list(sampling.stop),
        "ignore_eos": sampling.ignore_eos,
    }
    if sampling.logit_bias:
        found["logit_bias"] = [list(bias) for bias in sampling.logit_bias]
    if sampling.top_logprobs is not None:
        found["n_probs"] = max(1, sampling.top_logprobs)
    if sampling.stop_token_ids:
        found["timings_per_token"] = True  # these say what was cached; otherwise only the last event does
    return found


def opening_pass(request: EngineRequest) -> EngineRequest | None:
    """The part of an answer that must not end, as a request of its own: llama.cpp has no `min_tokens`."""
    sampling = request.sampling
    if not sampling.min_tokens or sampling.ignore_eos:
        return None
    bias = (*sampling.logit_bias, *((token, -100.0) for token in sampling.stop_token_ids))
    endless = replace(sampling, min_tokens=0, ignore_eos=True, stop=(), stop_token_ids=(), logit_bias=bias)
    return replace(request, max_tokens=min(sampling.min_tokens, request.max_tokens), sampling=endless)


class AnswerEvents:
    """One answer's events as pieces. `tokens` is how many it has so far."""

    def __init__(self, model: str, request: EngineRequest) -> None:
        self._model = model
        self._stop_ids = frozenset(request.sampling.stop_token_ids)
        self._top_logprobs = request.sampling.top_logprobs
        self._held: list[TokenLogprob] = []  # of tokens without text so far: the answer's last may be no part of it
        self._unchecked = bool(request.json_schema)
        self._plain = not self._stop_ids and self._top_logprobs is None and not self._unchecked
        self.tokens = 0

    def piece(self, event: Mapping[str, Any]) -> Piece:
        """What an event adds. Raises EngineError."""
        if "error" in event:
            error = event["error"] if isinstance(event["error"], dict) else {}
            raise translated(self._model, error.get("code", 500), str(error.get("message", event["error"])))
        try:
            tokens = event["tokens_predicted"] - self.tokens
            self.tokens += tokens
            logprobs = "" if self._plain else self._more(event)
            if not event["stop"]:
                if self._stop_ids and not self._stop_ids.isdisjoint(event["tokens"]):
                    return self._last(event, "", tokens, "stop", logprobs)
                return Piece(text=event["content"], tokens=tokens, logprobs=logprobs)
            finish = "length" if event["stop_type"] == "limit" else "stop"
            return self._last(event, event["content"], tokens, finish, logprobs)
        except (KeyError, TypeError) as error:
            raise EngineUnavailable(f"llama.cpp ({self._model}): an event without {error}: {event}") from error

    def _last(self, event: Mapping[str, Any], text: str, tokens: int, finish: str, logprobs: str) -> Piece:
        return Piece(
            text=text,
            tokens=tokens,
            finish=finish,
            prompt_tokens=event["tokens_evaluated"],
            cached_tokens=event["timings"]["cache_n"],
            completion_tokens=self.tokens,
            logprobs=logprobs,
            stop_text=event["stopping_word"] if event["stop"] and finish == "stop" else "",
        )

    def _more(self, event: Mapping[str, Any]) -> str:
        """Logprobs of the tokens up to this event. Checks a constrained answer."""
        if self._unchecked and (begun := event["content"].lstrip()):
            self._unchecked = False
            if begun[0] not in _JSON_BEGINS:  # it logs what it cannot compile, and goes on without
                raise EngineRejected(f"llama.cpp ({self._model}): the JSON schema cannot be followed")
        found = [self._logprob(item) for item in event.get("completion_probabilities") or ()]
        if event["stop"]:
            held = self._held if event["stop_type"] == "limit" else []
            return encode_logprobs(held + found)
        if not event["content"]:
            self._held += found
            return ""
        found, self._held = self._held + found, []
        return encode_logprobs(found)

    def _logprob(self, item: Mapping[str, Any]) -> TokenLogprob:
        """An event names the token by the text that it sends, which is less or more where text is held back. The ranks
        have the token's own, unless it is a part of a character."""
        ranked: Sequence[Mapping[str, Any]] = item["top_logprobs"]
        own = next((other for other in ranked if other["id"] == item["id"] and "\ufffd" not in other["token"]), item)
        top = [Logprob(other["token"], _known(other), other["bytes"]) for other in ranked[: self._top_logprobs]]
        return TokenLogprob(own["token"], _known(item), own["bytes"], top)


def _known(item: Mapping[str, Any]) -> float:
    """The server has no number for a logarithm of 0."""
    return UNLIKELY if item["logprob"] is None else float(item["logprob"])
