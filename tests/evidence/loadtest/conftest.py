"""A small OpenAI-style server over real HTTP. The model's name says how it behaves."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

WORDS = ["The", " parcel", " is", " at", " the", " depot", "."]


@dataclass
class FakeServer:
    """The server's address, and what it saw."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    hung_up: int = 0  # clients that left in mid-stream
    under_way: int = 0
    under_way_max: int = 0
    metrics: str = ""  # what /metrics says; empty: 404
    gate: int = 0  # "gated" answers nobody before this many have asked
    gate_open: asyncio.Event = field(default_factory=asyncio.Event)


def _event(value: object, number: int | str | None = None) -> str:
    head = "" if number is None else f"id: {number}\n"
    return f"{head}data: {value if isinstance(value, str) else json.dumps(value)}\n\n"


def _delta(text: str, finish: str | None = None) -> dict[str, Any]:
    delta = {"content": text} if text else {}
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], "usage": None}


def _events(model: str, words: list[str]) -> list[str]:
    """The stream's events for one behaviour, already encoded."""
    chunks: list[object] = [_delta(w) for w in words] + [_delta("", "stop")]
    counted = 40 if model == "short" else len(words)
    counts = {"prompt_tokens": 11, "completion_tokens": counted, "prompt_tokens_details": {"cached_tokens": 4}}
    if model != "no-usage":
        chunks.append({"choices": [], "usage": counts})
    chunks.append("[DONE]")
    numbered = list(enumerate(chunks, 1))
    match model:
        case "loses":
            del numbered[3]
        case "doubles":
            numbered.insert(3, numbered[2])
        case "overcounts":
            numbered = [(0, c) for c in [*chunks[:3], *chunks[:3], *chunks[3:]]]
        case "cut":
            numbered = numbered[:4]
        case "breaks":
            numbered = [
                *numbered[:2],
                (3, {"error": {"message": "gone", "type": "server_error", "code": "engine_gone"}}),
            ]
        case "late-refusal":
            numbered = [(1, {"error": {"message": "too late", "type": "server_error", "code": "deadline"}})]
        case _:
            pass
    if model in ("places", "repeats"):
        return [": ping\n\n", *_places(chunks, repeat=model == "repeats")]
    plain = model in ("overcounts", "no-ids", "short")
    return [": ping\n\n"] + [_event(c, None if plain else n) for n, c in numbered]


def _places(chunks: list[object], *, repeat: bool) -> list[str]:
    """Bunkhouse's ids: attempt and place on the role and on texts, with jumps, none on the tail with its facts."""
    facts = {"bunkhouse": {"kv_bits": 8, "queue_ms": 250.0, "served_by": "bunkhouse"}}
    ids = ["1-1", "1-2", "1-5", "1-6", "2-1", "2-2", "2-3"]
    texts = [_event(chunk, place) for chunk, place in zip(chunks[:7], ids, strict=True)]
    if repeat:
        texts.insert(5, texts[4])
    tail = {**_delta("", "stop"), **facts}
    return [_event(_delta(""), "1-0"), *texts, _event(tail), *(_event(c) for c in chunks[8:])]


class _App:
    def __init__(self, state: FakeServer) -> None:
        self.state = state

    async def chat(self, request: Request) -> Response:
        body = json.loads(await request.body())
        self.state.bodies.append(body)
        self.state.headers.append(dict(request.headers))
        model = body["model"]
        if model == "full":
            error = {"error": {"message": "queue is full", "type": "rate_limit_error", "code": "queue_full"}}
            return JSONResponse(error, 429, {"retry-after": "1"})
        if model == "unknown":
            return JSONResponse({"error": {"message": "no such bot", "code": "model_not_found"}}, 404)
        if model == "gated":
            if len(self.state.bodies) >= self.state.gate:
                self.state.gate_open.set()
            await self.state.gate_open.wait()
        if model == "late":
            await asyncio.sleep(0.3)
        headers = {"x-bunkhouse-kv-bits": "4", "x-bunkhouse-kv-bytes": "8192", "x-bunkhouse-queue-ms": "12.5"}
        return StreamingResponse(
            self._stream(model, request), media_type="text/event-stream", headers=headers if model == "ours" else {}
        )

    async def metrics(self, request: Request) -> Response:
        return PlainTextResponse(self.state.metrics, 200 if self.state.metrics else 404)

    async def _stream(self, model: str, request: Request) -> AsyncIterator[bytes]:
        state = self.state
        state.under_way += 1
        state.under_way_max = max(state.under_way_max, state.under_way)
        words = {"knows": ["42"], "long": WORDS * 200, "short": [" hello"] * 4}.get(model, WORDS)
        text = "".join(_events(model, words))
        if model == "crlf":
            text = text.replace("\n", "\r\n")
        raw = text.encode()
        size = 7 if model in ("crlf", "torn") else 160  # pieces that end in mid-event
        try:
            for start in range(0, len(raw), size):
                yield raw[start : start + size]
                await asyncio.sleep(0.05 if model == "long" else 0.001)
        except (asyncio.CancelledError, GeneratorExit):
            state.hung_up += 1
            raise
        finally:
            state.under_way -= 1


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A running server on a free loopback port."""
    state = FakeServer()
    handlers = _App(state)
    routes = [Route("/v1/chat/completions", handlers.chat, methods=["POST"]), Route("/metrics", handlers.metrics)]
    app = Starlette(routes=routes)
    config = uvicorn.Config(app, port=0, log_config=None, access_log=False, ws="none", lifespan="off", backlog=4096)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    state.url = f"http://127.0.0.1:{port}/v1"
    yield state
    running.should_exit = running.force_exit = True
    thread.join(10)
