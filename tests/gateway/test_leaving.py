"""Clients that go away, come back, or ask twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import httpx
import orjson
import pytest

from gateway.request import checked_chat
from gateway.submit import Caller, new_chat_id
from gateway.submit import submit as submit_chat
from services.contracts.replies import ReplyError
from services.http_stream.sse import SseParser
from services.store.registry import Registry
from services.store.submission import SubmissionClient

from .conftest import ACME, GLOBEX, Host, HostFactory, gateway_on
from .driver import Script, ended, until
from .test_bad_input import GOOD, error_of

SLOW = Script(pieces=[f"{number} " for number in range(30)], pause_s=0.03)
SLOW_TEXT = SLOW.text
BEARER = {"authorization": f"Bearer {ACME}"}


class Heard:
    """What one client has of a stream."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.last_id = ""
        self.done = False
        self.chat = ""
        self.roles = 0
        self.error = ""  # code of an error event

    @property
    def text(self) -> str:
        return "".join(self.texts)

    async def listen(self, answer: httpx.Response, pieces_max: int = 10_000) -> None:
        self.chat = answer.headers["x-bunkhouse-chat"]
        parser = SseParser()
        async for data in answer.aiter_bytes():
            for event in parser.feed(data):
                self.last_id = event.id or self.last_id
                if event.data == b"[DONE]":
                    self.done = True
                    continue
                said = orjson.loads(event.data)
                if "error" in said:
                    self.error = said["error"]["code"]
                    continue
                delta = said["choices"][0]["delta"]
                self.roles += "role" in delta
                if delta.get("content"):
                    self.texts.append(delta["content"])
                    if len(self.texts) >= pieces_max:
                        return


RESUMABLE = {"x-bunkhouse-resume": "1"}


async def begin(
    host: Host, heard: Heard, pieces: int, headers: Mapping[str, str] = RESUMABLE, url: str | None = None
) -> None:
    """Ask, hear some pieces, go away."""
    body = {**GOOD, "stream": True}
    path = f"{url or host.url}/v1/chat/completions"
    async with host.http.stream("POST", path, json=body, headers={**BEARER, **headers}) as answer:
        assert answer.status_code == 200
        await heard.listen(answer, pieces)


async def go_on(http: httpx.AsyncClient, url: str, heard: Heard, pieces: int = 10_000) -> None:
    """Take a stream up where it was left."""
    headers = {**BEARER, "last-event-id": heard.last_id}
    async with http.stream("GET", f"{url}/v1/chats/{heard.chat}/stream", headers=headers) as answer:
        assert answer.status_code == 200
        await heard.listen(answer, pieces)


async def test_a_client_that_leaves_a_whole_answer_cancels_at_once(host: Host) -> None:
    host.driver.script_for = lambda _: Script(pieces=["x"] * 100, pause_s=0.05)
    asking = asyncio.create_task(host.ask(GOOD))
    await until(lambda: host.driver.claims)
    asking.cancel()
    await until(lambda: host.driver.cancelled, 0.8)  # less than the grace
    await until(lambda: host.driver.settled)
    assert not host.state.readers


async def test_a_client_that_leaves_while_waiting(host: Host) -> None:
    host.driver.script_for = lambda _: Script(ignore=True)
    asking = asyncio.create_task(host.ask(GOOD))
    await until(lambda: host.driver.tickets)
    asking.cancel()
    await until(lambda: not host.state.readers and not host.state.lingering)
    assert await host.connection.redis.hlen("bh:waiting") == 0


async def test_a_client_that_leaves_a_stream_cancels_after_the_grace(host: Host) -> None:
    host.driver.script_for = lambda _: Script(pieces=["x"] * 200, pause_s=0.05)
    await begin(host, Heard(), 2)
    left_s = time.monotonic()
    await until(lambda: host.driver.cancelled)
    assert time.monotonic() - left_s > 0.5


async def test_a_client_that_cannot_resume_cancels_at_once(host: Host) -> None:
    host.driver.script_for = lambda _: Script(pieces=["x"] * 200, pause_s=0.05)
    await begin(host, Heard(), 2, headers={})
    await until(lambda: host.driver.cancelled, 0.8)  # less than the grace


async def test_a_tenant_cancels_its_own_chat(host: Host) -> None:
    host.driver.script_for = lambda _: Script(pieces=["x"] * 400, pause_s=0.05)
    heard = Heard()
    reading = asyncio.create_task(begin(host, heard, 10_000))
    await until(lambda: heard.texts)
    url = f"{host.url}/v1/chats/{heard.chat}/cancel"
    error_of(await host.http.post(url, headers={"authorization": f"Bearer {GLOBEX}"}), 404, "chat_not_found", "id")
    answer = await host.http.post(url, headers=BEARER)
    assert (answer.status_code, answer.json()["id"]) == (200, heard.chat)
    await reading
    assert (heard.error, heard.done) == ("cancelled", True)
    assert (await host.http.post(url, headers=BEARER)).json()["finish"] == "cancelled", "again, it changes nothing"


@pytest.mark.parametrize("keyed", [True, False])
async def test_a_second_reader_at_another_gateway_takes_nothing_from_the_first(
    hosts: HostFactory, redis_url: str, tokenizer: Any, keyed: bool
) -> None:
    async with hosts(resume_grace_s=0.1) as host:
        host.driver.script_for = lambda _: Script(pieces=[f"{number} " for number in range(60)], pause_s=0.03)
        heard, second = Heard(), Heard()
        headers = {"idempotency-key": "twice"} if keyed else RESUMABLE
        first = asyncio.create_task(begin(host, heard, 10_000, headers))
        await until(lambda: heard.texts)
        async with gateway_on(redis_url, host.config, tokenizer) as (app, _, url, _):
            if keyed:
                await begin(host, second, 1, headers, url)
            else:
                second.chat, second.last_id = heard.chat, "0-0"
                await go_on(host.http, url, second, 1)
            assert app.state is not None
            await until(lambda: not app.state.lingering and not app.state.readers)  # type: ignore[union-attr]
            await first
        assert (len(heard.texts), heard.done, heard.error) == (60, True, "")
        assert not host.driver.cancelled


async def test_a_second_reader_who_leaves_takes_nothing_from_the_first(hosts: HostFactory) -> None:
    async with hosts(resume_grace_s=0.1) as host:
        host.driver.script_for = lambda _: SLOW
        heard, second = Heard(), Heard()
        first = asyncio.create_task(begin(host, heard, 10_000))
        await until(lambda: heard.texts)
        second.chat, second.last_id = heard.chat, "0-0"
        await go_on(host.http, host.url, second, 1)
        await first
        assert (heard.text, heard.done, heard.error) == (SLOW_TEXT, True, "")
        assert not host.driver.cancelled


async def test_a_chat_that_two_read_is_cancelled_when_both_are_gone(host: Host) -> None:
    host.driver.script_for = lambda _: Script(pieces=["x"] * 400, pause_s=0.05)
    heard, second = Heard(), Heard()
    first = asyncio.create_task(begin(host, heard, 10_000))
    await until(lambda: heard.texts)
    second.chat, second.last_id = heard.chat, "0-0"
    await go_on(host.http, host.url, second, 1)
    first.cancel()
    await until(lambda: host.driver.cancelled)


async def test_a_stream_is_resumed_with_nothing_lost_or_doubled(host: Host) -> None:
    host.driver.script_for = lambda _: SLOW
    heard = Heard()
    await begin(host, heard, 5)
    await asyncio.sleep(0.1)
    await go_on(host.http, host.url, heard, 6)
    await go_on(host.http, host.url, heard)
    assert heard.text == SLOW_TEXT
    assert (heard.done, heard.roles) == (True, 1)
    await asyncio.sleep(1.2)  # past the grace of the first two readers
    assert not host.driver.cancelled
    assert len(host.driver.claims) == 1


async def test_a_finished_stream_can_be_read_again(host: Host) -> None:
    heard, again = Heard(), Heard()
    await begin(host, heard, 10_000)
    again.chat = heard.chat
    again.last_id = "0-0"
    await go_on(host.http, host.url, again)
    assert again.text == heard.text
    tail = Heard()
    tail.chat, tail.last_id = heard.chat, heard.last_id
    await go_on(host.http, host.url, tail)
    assert (tail.text, tail.done) == ("", True)


async def test_a_stream_goes_on_at_another_gateway(hosts: HostFactory, redis_url: str, tokenizer: Any) -> None:
    async with hosts(resume_grace_s=60.0) as host:
        host.driver.script_for = lambda _: SLOW
        heard = Heard()
        await begin(host, heard, 5)
        async with gateway_on(redis_url, host.config, tokenizer) as (_, _, url, _):
            await go_on(host.http, url, heard)
    assert heard.text == SLOW_TEXT
    assert not host.driver.cancelled


async def test_only_its_tenant_can_resume(host: Host) -> None:
    heard = Heard()
    await begin(host, heard, 10_000)
    theirs = {"authorization": f"Bearer {GLOBEX}"}
    for path in ("/v1/chats/{}", "/v1/chats/{}/stream"):
        url = host.url + path
        stranger = error_of(await host.http.get(url.format(heard.chat), headers=theirs), 404, "chat_not_found", "id")
        nobody = error_of(await host.http.get(url.format("chatcmpl-x"), headers=theirs), 404, "chat_not_found", "id")
        assert stranger == nobody
        error_of(await host.http.get(url.format(heard.chat)), 401, "invalid_api_key")


async def test_a_nonsense_event_id(host: Host) -> None:
    for nonsense in ("x", "1", "-1-1", "1-1; DROP", "9" * 40 + "-1"):
        url = f"{host.url}/v1/chats/chatcmpl-x/stream"
        answer = await host.http.get(url, headers={**BEARER, "last-event-id": nonsense})
        error_of(answer, 400, "invalid_value", "last_event_id")
    chat = (await host.ask(GOOD)).headers["x-bunkhouse-chat"]
    for nonsense in ("1-1\n", "١-١", "1-²"):  # digits that Redis does not take as such
        url = f"{host.url}/v1/chats/{chat}/stream"
        answer = await host.http.get(url, headers=BEARER, params={"last_event_id": nonsense})
        error_of(answer, 400, "invalid_value", "last_event_id")


async def test_a_chat_can_be_looked_up(host: Host) -> None:
    host.driver.script_for = lambda _: SLOW
    asking = asyncio.create_task(host.ask(GOOD))
    await until(lambda: host.driver.claims)
    url = f"{host.url}/v1/chats/{host.driver.tickets[0].chat}"
    shown = (await host.http.get(url, headers=BEARER)).json()
    assert (shown["state"], shown["kv_bits"], shown["completion"]) == ("running", 8, None)
    whole = (await asking).json()
    shown = (await host.http.get(url, headers=BEARER)).json()
    assert (shown["state"], shown["finish"]) == ("done", "stop")
    assert shown["completion"] == whole


async def test_an_idempotency_key_stands_for_one_chat(host: Host) -> None:
    host.driver.script_for = lambda _: SLOW
    first, second = await asyncio.gather(
        *(host.ask(GOOD, **{"idempotency-key": "k1"}) for _ in range(2)),
    )
    third = await host.ask(GOOD, **{"idempotency-key": "k1"})
    assert first.json() == second.json() == third.json()
    assert len(host.driver.tickets) == 1
    other = {**GOOD, "max_tokens": 7}
    error_of(await host.ask(other, **{"idempotency-key": "k1"}), 422, "idempotency_key_reused")
    error_of(await host.ask(GOOD, **{"idempotency-key": "k" * 300}), 400, "invalid_value")
    theirs = await host.ask({**GOOD, "model": "returns"}, GLOBEX, **{"idempotency-key": "k1"})
    assert theirs.json()["id"] != first.json()["id"]


async def test_an_idempotency_key_stands_for_one_question(host: Host) -> None:
    key = {"idempotency-key": "k4"}
    cats, dogs = ({**GOOD, "messages": [{"role": "user", "content": f"I like {them}."}]} for them in ("cats", "dogs"))
    first = await host.ask(cats, **key)
    assert first.status_code == 200
    others = (dogs, *({**cats, **more} for more in ({"temperature": 0.3}, {"seed": 7}, {"stop": "."})))
    for other in others:
        error_of(await host.ask(other, **key), 422, "idempotency_key_reused")
    assert len({ticket.prompt_tokens for ticket in host.driver.tickets}) == 1
    streamed = await host.ask({**cats, "stream": True, "stream_options": {"include_usage": True}}, **key)
    assert streamed.headers["x-bunkhouse-chat"] == first.json()["id"], "how it is sent is no other question"
    assert (await host.ask(dogs)).status_code == 200
    assert len({ticket.prompt_tokens for ticket in host.driver.tickets}) == 1, "the two questions are equally long"


async def test_a_rolled_system_prompt_is_no_other_question(host: Host) -> None:
    first = await host.ask(GOOD, **{"idempotency-key": "k5"})
    await host.change(prompted)
    again = await host.ask(GOOD, **{"idempotency-key": "k5"})
    assert again.json() == first.json()


def prompted(old: Registry) -> Registry:
    """With another system prompt."""
    acme = old.tenants["acme"]
    support = acme.config.bots["support"].model_copy(update={"system": "You help, and you say please."})
    config = acme.config.model_copy(update={"bots": {**acme.config.bots, "support": support}})
    return old.model_copy(update={"tenants": {**old.tenants, "acme": acme.model_copy(update={"config": config})}})


async def test_a_keyed_client_that_asks_again_gets_the_same_chat(host: Host) -> None:
    host.driver.script_for = lambda _: SLOW
    asking = asyncio.create_task(host.ask(GOOD, **{"idempotency-key": "k2"}))
    await until(lambda: host.driver.claims)
    asking.cancel()
    again = await host.ask(GOOD, **{"idempotency-key": "k2"})
    assert again.json()["choices"][0]["message"]["content"] == SLOW_TEXT
    assert len(host.driver.claims) == 1


async def test_a_key_whose_chat_failed_is_free_again(host: Host) -> None:
    host.driver.script_for = lambda _: Script(error=ReplyError("engine_failed", "It broke."))
    error_of(await host.ask(GOOD, **{"idempotency-key": "k3"}), 502, "engine_failed")
    host.driver.script_for = lambda _: Script()
    assert (await host.ask(GOOD, **{"idempotency-key": "k3"})).status_code == 200


async def test_no_grace_at_all(hosts: HostFactory) -> None:
    async with hosts(resume_grace_s=0) as host:
        host.driver.script_for = lambda _: Script(pieces=["x"] * 100, pause_s=0.05)
        await begin(host, Heard(), 2)
        await until(lambda: host.driver.cancelled)


async def test_a_chat_whose_gateway_was_killed_is_cancelled_unless_it_is_taken_up(
    hosts: HostFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody counted its reader as one that left, so it ran on to its end, and waited on to its deadline."""
    monkeypatch.setattr("services.store.unread_chats.SWEEP_S_MIN", 0.2)
    async with hosts(resume_grace_s=0.2) as host:
        host.driver.script_for = lambda asked: Script(["x"] * 400, pause_s=0.05, ignore=asked.session == "waits")
        killed = SubmissionClient(host.connection, reply_channel="bh:replies:killed")

        async def submit(session: str) -> str:
            chat = new_chat_id()
            caller = Caller.of("acme", "r", session=session)
            with monkeypatch.context() as patch:
                patch.setattr(host.state, "submissions", killed)
                await submit_chat(host.state, caller, checked_chat(GOOD), chat)
            return chat

        live = Heard()
        reading = asyncio.create_task(begin(host, live, 10_000, headers={}))
        await until(lambda: live.texts)
        chats = {session: await submit(session) for session in ("runs", "waits", "taken up")}
        taken = Heard()
        taken.chat, taken.last_id = chats["taken up"], "0-0"
        resumed = asyncio.create_task(go_on(host.http, host.url, taken))
        await until(lambda: chats["runs"] in host.driver.cancelled)
        async with asyncio.timeout(10):
            while await host.connection.redis.hlen("bh:waiting"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert not {live.chat, taken.chat} & host.driver.cancelled
        assert taken.texts
        for task in (reading, resumed):
            await ended(task)
