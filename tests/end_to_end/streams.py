"""Streams of chats, checked: every event's place once, in order, to the end."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field

import httpx

from tests.host_process import HostProcess

BOTS = {"acme": "acme/support", "globex": "globex/returns"}


@dataclass
class Heard:
    """What one client got, perhaps over several connections."""

    chat: str = ""
    places: list[str] = field(default_factory=list)
    text: str = ""
    finish: str | None = None
    completion_tokens: int = 0
    error: str | None = None
    done: bool = False

    def check(self) -> None:
        """Nothing doubled, nothing out of order."""
        order = [tuple(map(int, place.split("-"))) for place in self.places]
        assert order == sorted(set(order)), f"{self.chat}: places {self.places}"


async def listen(lines: httpx.Response, heard: Heard, stop_after: int | None = None) -> Heard:
    """Read SSE until it ends, or until so many text events came."""
    place = ""
    async for line in lines.aiter_lines():
        if line.startswith("id: "):
            place = line[4:]
        elif line == "data: [DONE]":
            heard.done = True
        elif line.startswith("data: "):
            _take(json.loads(line[6:]), place, heard)
            place = ""
            if stop_after and len(heard.places) >= stop_after:
                return heard
    return heard


def _take(event: dict[str, object], place: str, heard: Heard) -> None:
    if "error" in event:
        heard.error = json.dumps(event["error"])
        return
    if place:
        heard.places.append(place)
    usage = event.get("usage")
    if isinstance(usage, dict):
        heard.completion_tokens = usage["completion_tokens"]
    for choice in event["choices"]:  # type: ignore[attr-defined]
        heard.text += choice["delta"].get("content") or ""
        heard.finish = choice["finish_reason"] or heard.finish


def body(tenant: str, text: str, **options: object) -> dict[str, object]:
    """A streaming request to a tenant's bot."""
    return {
        "model": BOTS[tenant],
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        **options,
    }


async def chat(
    client: httpx.AsyncClient, host: HostProcess, tenant: str, text: str, heard: Heard | None = None, **options: object
) -> Heard:
    """One chat to its end over one connection. `heard` grows meanwhile."""
    heard = heard or Heard()
    request = client.stream(
        "POST",
        f"{host.url}/v1/chat/completions",
        headers=host.headers(tenant) | {"X-Bunkhouse-Resume": "1"},
        json=body(tenant, text, **options),
    )
    async with request as answer:
        if answer.status_code != 200:
            return Heard(error=(await answer.aread()).decode())
        heard.chat = answer.headers["x-bunkhouse-chat"]
        return await listen(answer, heard)


async def resume(client: httpx.AsyncClient, host: HostProcess, tenant: str, heard: Heard) -> Heard:
    """Go on with a broken chat after its last event, until the gateway answers again."""
    headers = host.headers(tenant) | {"Last-Event-ID": heard.places[-1]}
    async with asyncio.timeout(60):
        while True:
            try:
                async with client.stream("GET", f"{host.url}/v1/chats/{heard.chat}/stream", headers=headers) as answer:
                    if answer.status_code == 200:
                        return await listen(answer, heard)
                    if answer.status_code < 500:  # the chat ended, with nothing after what was heard
                        heard.error = (await answer.aread()).decode()
                        return heard
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.2)
