"""One chat over HTTP, as `bunkhouse chat` holds it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter
from types import TracebackType
from typing import Any, Self

import httpx

from services.http_stream.sse import SseParser

CONNECT_S_MAX = 5.0
SILENCE_S_MAX = 120.0  # the gateway pings an idle stream far more often


class ChatFailed(Exception):
    """The host did not answer, or answered with an error. The message is its own."""


@dataclass
class ChatAnswer:
    """What is known of an answer at its end."""

    text: str = ""
    kv_bits: int | None = None
    queue_ms: float | None = None
    first_token_ms: float | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    decode_s: float = field(default=0.0, repr=False)  # from the first piece to the last
    finish: str | None = None  # "stop" | "length"

    @property
    def tokens_per_s(self) -> float | None:
        """Of the tokens after the first; None for an answer that is too short to tell."""
        if self.completion_tokens is None or self.completion_tokens < 2 or self.decode_s <= 0:
            return None
        return (self.completion_tokens - 1) / self.decode_s


class ChatClient:
    """A conversation with one bot: each turn sends what was said before."""

    def __init__(self, url: str, key: str, bot: str, *, session: str, temperature: float) -> None:
        self._http = httpx.Client(
            base_url=url,
            headers={"authorization": f"Bearer {key}", "x-bunkhouse-session": session},
            timeout=httpx.Timeout(SILENCE_S_MAX, connect=CONNECT_S_MAX),
            trust_env=False,
        )
        self._asked = {
            "model": bot,
            "temperature": temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        self._messages: list[dict[str, str]] = []
        self.answer = ChatAnswer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def forget(self) -> None:
        """Begin a new conversation."""
        self._messages = []

    def ask(self, text: str) -> Iterator[str]:
        """Stream one turn; `answer` is complete at the end. Raises ChatFailed; the turn is then forgotten."""
        self.answer = answer = ChatAnswer()
        messages = [*self._messages, {"role": "user", "content": text}]
        body = {**self._asked, "messages": messages}
        first_s = 0.0
        try:
            with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != httpx.codes.OK:
                    raise ChatFailed(_error(response))
                for event in _events(response):
                    piece = _read(event, answer)
                    if piece:
                        first_s = first_s or perf_counter()
                        answer.decode_s = perf_counter() - first_s
                        answer.text += piece
                        yield piece
        except httpx.TransportError as error:
            raise ChatFailed(f"{self._http.base_url}: {error or type(error).__name__}; does the host run?") from error
        self._messages = [*messages, {"role": "assistant", "content": answer.text}]


def _events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    parser = SseParser()
    for piece in response.iter_bytes():
        yield from (json.loads(data) for data in parser.feed_data(piece) if data != b"[DONE]")


def _read(event: dict[str, Any], answer: ChatAnswer) -> str:
    """Take from an event what it tells. Returns its text. Raises ChatFailed for an error in mid-stream."""
    if "error" in event:
        raise ChatFailed(str(event["error"].get("message", event["error"])))
    facts, usage = event.get("bunkhouse") or {}, event.get("usage") or {}
    for name in ("kv_bits", "queue_ms", "first_token_ms"):
        if facts.get(name) is not None:
            setattr(answer, name, facts[name])
    if usage:
        answer.prompt_tokens, answer.completion_tokens = usage["prompt_tokens"], usage["completion_tokens"]
        answer.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    for choice in event["choices"]:
        answer.finish = choice.get("finish_reason") or answer.finish
    return "".join(choice.get("delta", {}).get("content") or "" for choice in event["choices"])


def _error(response: httpx.Response) -> str:
    body = response.read()
    try:
        return f"{response.status_code}: {json.loads(body)['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code}: {body[:200].decode(errors='replace')}"
