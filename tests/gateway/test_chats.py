"""Chats that go well: the unmodified openai client, streams and whole answers."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from services.contracts.replies import Finish

from .conftest import ACME, GLOBEX, Host, HostFactory
from .driver import BYTES_PER_TOKEN, Script, until

HELLO: Any = [{"role": "user", "content": "Hello there"}]
TEXT = "Hello, wörld!"


async def test_a_whole_answer(host: Host) -> None:
    await host.state.engines.look()
    answer = await host.client().chat.completions.with_raw_response.create(model="acme/support", messages=HELLO)
    parsed = answer.parse()
    assert parsed.choices[0].message.content == TEXT
    assert parsed.choices[0].finish_reason == "stop"
    assert parsed.model == "acme/support"
    assert parsed.usage is not None
    assert parsed.usage.total_tokens == parsed.usage.prompt_tokens + 4
    assert parsed.usage.prompt_tokens == host.driver.tickets[0].prompt_tokens > 10
    assert parsed.usage.prompt_tokens_details is not None
    assert parsed.usage.prompt_tokens_details.cached_tokens == 2
    assert answer.headers["x-bunkhouse-chat"] == parsed.id == host.driver.tickets[0].chat
    assert answer.headers["x-bunkhouse-kv-bits"] == "8"
    assert int(answer.headers["x-bunkhouse-kv-bytes"]) == host.driver.tickets[0].tokens_max * BYTES_PER_TOKEN
    assert answer.headers["x-bunkhouse-served-by"] == "bunkhouse"
    assert float(answer.headers["x-bunkhouse-overhead-ms"]) < 1000
    assert float(answer.headers["x-bunkhouse-queue-ms"]) >= 0
    assert answer.headers["x-request-id"] == host.driver.tickets[0].request


async def test_a_stream_with_usage(host: Host) -> None:
    stream = await host.client().chat.completions.create(
        model="support", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == TEXT
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 4
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert {chunk.id for chunk in chunks} == {host.driver.tickets[0].chat}
    assert {chunk.model for chunk in chunks} == {"acme/support"}


async def test_a_stream_as_bytes(host: Host) -> None:
    body = {"model": "acme/support", "messages": HELLO, "stream": True}
    answer = await host.ask(body, **{"x-bunkhouse-resume": "1"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    events = answer.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    ids = [event.split("\n")[0].removeprefix("id: ") for event in events if event.startswith("id: ")]
    assert ids[0] == "1-0"
    assert ids == sorted(set(ids))
    bodies = [orjson.loads(event.rpartition("data: ")[2]) for event in events[:-2]]
    assert all("usage" not in body for body in bodies)
    assert bodies[-1]["bunkhouse"]["kv_bits"] == 8


@pytest.mark.parametrize("headers", [{}, {"x-bunkhouse-resume": "0"}])
async def test_events_have_ids_only_for_clients_that_asked(host: Host, headers: dict[str, str]) -> None:
    body = {"model": "acme/support", "messages": HELLO, "stream": True}
    plain = await host.ask(body, **headers)
    assert {line.partition(":")[0] for line in plain.text.split("\n")} == {"data", ""}
    chat = plain.headers["x-bunkhouse-chat"]
    resumed = await host.http.get(f"{host.url}/v1/chats/{chat}/stream", headers={"authorization": f"Bearer {ACME}"})
    for answer in (
        resumed,
        await host.ask(body, **{"idempotency-key": "k"}),
        await host.ask(body, **{"last-event-id": "0-0"}),
    ):
        assert answer.text.startswith("id: 1-0\ndata: ")


async def test_news_that_outrun_the_submissions_own_answer(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    submit = host.state.submissions.submit

    async def late(*args: Any, **more: Any) -> Any:
        answer = await submit(*args, **more)
        await until(lambda: host.driver.settled)
        return answer

    monkeypatch.setattr(host.state.submissions, "submit", late)
    stream = await host.client().chat.completions.create(model="support", messages=HELLO, stream=True)
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT


async def test_what_the_worker_gets(host: Host) -> None:
    await host.client().chat.completions.create(
        model="support",
        messages=[{"role": "system", "content": "Be brief."}, *HELLO],
        temperature=0.2,
        top_p=0.9,
        seed=-1,
        stop=["END", "\n\n"],
        max_tokens=17,
        frequency_penalty=0.5,
        presence_penalty=-0.5,
        user="u",
        n=1,
        store=False,
        metadata={"task": "maths", "session": "s-1"},
    )
    claim = host.driver.claims[0]
    assert claim.ticket.task == "maths"
    assert claim.ticket.session == "s-1"
    assert claim.ticket.max_tokens == 17
    assert (claim.payload.sampling.temperature, claim.payload.sampling.top_p) == (0.2, 0.9)
    assert list(claim.payload.sampling.stop) == ["END", "\n\n"]
    assert claim.payload.sampling.seed == 0x7FFFFFFF
    assert (claim.payload.sampling.frequency_penalty, claim.payload.sampling.presence_penalty) == (0.5, -0.5)
    assert len(claim.payload.prompt) == claim.ticket.prompt_tokens
    assert len(claim.payload.salt) == 32


async def test_salts_differ_between_tenants_and_not_between_chats(host: Host) -> None:
    await host.client().chat.completions.create(model="support", messages=HELLO)
    await host.client().chat.completions.create(model="support", messages=HELLO)
    await host.client(GLOBEX).chat.completions.create(model="returns", messages=HELLO)
    first, second, other = (claim.payload.salt for claim in host.driver.claims)
    assert first == second != other


async def test_length_is_a_finish_reason(host: Host) -> None:
    host.driver.script_for = lambda _: Script(finish=Finish.LENGTH)
    answer = await host.client().chat.completions.create(model="support", messages=HELLO)
    assert answer.choices[0].finish_reason == "length"


async def test_open_webui_chats_keep_their_session(host: Host) -> None:
    body = {"model": "acme/support", "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]}
    answer = await host.ask(body, **{"X-OpenWebUI-Chat-Id": "c1", "X-OpenWebUI-User-Id": "u"})
    assert answer.status_code == 200
    assert host.driver.tickets[0].session == "c1"


async def test_a_sane_request_id_is_kept(host: Host) -> None:
    for given, kept in (("my-id.1", True), ("bad id", False), ("x" * 200, False)):
        answer = await host.ask({"model": "support", "messages": HELLO}, **{"x-request-id": given})
        assert (answer.headers["x-request-id"] == given) is kept
        assert answer.headers["x-request-id"] == host.driver.tickets[-1].request


async def test_a_round_trip_of_an_assistant_message(host: Host) -> None:
    client = host.client()
    answer = await client.chat.completions.create(model="support", messages=HELLO)
    said = answer.choices[0].message.model_dump()
    again = [*HELLO, said, {"role": "user", "content": "And then?"}]
    answer = await client.chat.completions.create(model="support", messages=again)
    assert answer.choices[0].message.content == TEXT


async def test_an_idle_stream_is_kept_open(hosts: HostFactory) -> None:
    async with hosts(ping_s=0.1) as host:
        host.driver.script_for = lambda _: Script(pause_s=0.3)
        asked = {"model": "support", "messages": HELLO, "stream": True}
        answer = await host.ask(asked)
        assert len(answer.text.split("\n\n\n\n")) >= 4  # empty lines between events
        assert ": ping" in (await host.ask(asked, **{"x-bunkhouse-resume": "1"})).text
        # as SGLang's bench client reads every line that is not empty
        lines = [line.removeprefix("data: ") for line in answer.text.split("\n") if line]
        said = [orjson.loads(line) for line in lines if line != "[DONE]"]
        assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in said) == TEXT


@pytest.mark.parametrize("headers", [{}, {"idempotency-key": "k"}])
async def test_openais_client_reads_an_idle_stream(hosts: HostFactory, headers: dict[str, str]) -> None:
    """Where an event had an id, it takes the empty line behind a comment for an event without data."""
    async with hosts(ping_s=0.1, early_refusal_s=0.1) as host:
        host.driver.script_for = lambda _: Script(pause_s=0.3, hold_s=0.3)
        stream = await host.client().chat.completions.create(
            model="support", messages=HELLO, stream=True, extra_headers=headers
        )
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == TEXT


async def test_a_client_that_waits_knows_its_chat_and_can_cancel_it(hosts: HostFactory) -> None:
    """Headers came with the first word, so nobody could ask about a chat that waited, or end it."""
    async with hosts(early_refusal_s=0.1) as host:
        host.driver.script_for = lambda _: Script(ignore=True)
        body = {"model": "support", "messages": HELLO, "stream": True}
        headers = {"authorization": f"Bearer {ACME}"}
        async with host.http.stream("POST", f"{host.url}/v1/chat/completions", headers=headers, json=body) as answer:
            pieces = answer.aiter_bytes()
            assert await anext(pieces) == b"\n\n"
            chat = f"{host.url}/v1/chats/{answer.headers['x-bunkhouse-chat']}"
            assert (await host.http.get(chat, headers=headers)).json()["state"] == "waiting"
            assert (await host.http.post(f"{chat}/cancel", headers=headers)).status_code == 200
            assert (b"".join([piece async for piece in pieces])).endswith(b"data: [DONE]\n\n")


async def test_the_headers_of_a_slow_answer_say_how_it_is_served(
    hosts: HostFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.store.replies.SWEEP_S", 60.0)
    async with hosts(early_refusal_s=2.0) as host:
        host.driver.script_for = lambda _: Script(["Hello"], pause_s=3.0)
        answer = await host.ask({"model": "support", "messages": HELLO, "stream": True})
        assert answer.headers["x-bunkhouse-kv-bits"] == "8"


async def test_fifty_at_once(host: Host) -> None:
    client = host.client()
    host.state.submissions._bounds = (1000, 1000)

    async def one(number: int) -> str:
        stream = await client.chat.completions.create(
            model="support", messages=[{"role": "user", "content": f"Number {number}"}], stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert set(await asyncio.gather(*(one(number) for number in range(50)))) == {TEXT}


async def test_models(host: Host) -> None:
    client = host.client()
    assert [model.id async for model in client.models.list()] == ["acme/support", "acme/tiny", "acme/raw", "acme/hasty"]
    assert (await client.models.retrieve("acme/tiny")).id == "acme/tiny"
    shown = await host.http.get(f"{host.url}/v1/models/tiny", headers={"authorization": f"Bearer {ACME}"})
    assert shown.json()["context_length"] == 128
