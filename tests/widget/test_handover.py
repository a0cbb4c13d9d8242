"""Handing over to a person: signed, at once, again until it is taken, and never into the host's own network."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, repeat
from typing import ClassVar

import pytest
from pydantic import ValidationError

from gateway import outgoing
from gateway.outgoing import allowed
from gateway.widget import handover, webhook
from gateway.widget.handover import Outbox
from gateway.widget.sites import WidgetSite, webhook_secret
from gateway.widget.webhook import WebhookFailed, post
from services.config.schema import BotConfig, WidgetConfig
from services.store import redis_keys as keys
from services.store.connection import Connection, connect
from services.store.conversations import Conversation, ConversationTurn
from services.store.deliveries import Delivery, DeliveryStore
from tests.gateway.driver import ended, until

from .conftest import BOT, Page
from .test_refusals import change_widget

PEPPER = b"p" * 32


class Desk(BaseHTTPRequestHandler):
    """A receiver on this machine. `answers` are the statuses it gives, then 200."""

    taken: ClassVar[list[tuple[dict[str, str], bytes]]] = []
    answers: ClassVar[list[int]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.taken.append((dict(self.headers), body))
        status = self.answers.pop(0) if self.answers else 200
        self.send_response(status)
        if status == 302:
            self.send_header("location", "http://127.0.0.1:1/elsewhere")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def desk() -> Iterator[str]:
    Desk.taken.clear()
    Desk.answers.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Desk)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/hook"
    server.shutdown()
    thread.join()
    server.server_close()


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_764_000_000.0

    def __call__(self) -> float:
        return self.now_s


def place_of(url: str) -> WidgetSite:
    widget = WidgetConfig(handover_webhook=url)
    return WidgetSite("bhw-x", "acme", "acme/help", BotConfig(model="m", widget=widget), widget)


def talk() -> Conversation:
    return Conversation(
        session="s" * 32, bot="acme/help", began_s=1.0, turns=(ConversationTurn(who="visitor", text="Help!", at_s=2.0),)
    )


async def outbox(connection: Connection, clock: Clock) -> Outbox:
    return Outbox(connection, PEPPER, clock)


async def test_a_letter_is_signed_and_tells_the_conversation(redis_url: str, desk: str) -> None:
    async with connect(redis_url) as connection:
        box = await outbox(connection, Clock())
        await box.put(place_of(desk), talk(), contact="ada@example.com", note="A cracked bowl", page="https://shop")
        assert await box.deliver_next()
        assert not await box.deliver_next()
        assert await connection.redis.keys("bh:widget:*") == []
    [(headers, body)] = Desk.taken
    message = json.loads(body)
    assert message["event"] == "handover.requested"
    assert message["contact"] == "ada@example.com"
    assert message["turns"] == [{"who": "visitor", "text": "Help!", "at_s": 2.0}]
    seconds, _, mac = headers["x-bunkhouse-signature"].removeprefix("t=").partition(",v1=")
    secret = webhook_secret("acme/help", PEPPER).encode()
    assert mac == hmac.new(secret, f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()


async def test_a_desk_that_is_down_is_tried_again_later(redis_url: str, desk: str) -> None:
    Desk.answers += [500, 503]
    clock = Clock()
    async with connect(redis_url) as connection:
        box = await outbox(connection, clock)
        await box.put(place_of(desk), talk(), contact="ada", note="", page="")
        for wait_s in handover.TRY_AFTER_S[:2]:
            assert await box.deliver_next()
            assert not await box.deliver_next()
            clock.now_s += wait_s + 0.01
        assert await box.deliver_next()
        assert not await box.deliver_next()
    ids = {json.loads(body)["id"] for _, body in Desk.taken}
    assert len(Desk.taken) == 3
    assert len(ids) == 1


async def test_it_is_given_up_at_the_end_and_at_once_where_trying_again_is_no_use(redis_url: str, desk: str) -> None:
    clock = Clock()
    async with connect(redis_url) as connection:
        box = await outbox(connection, clock)
        Desk.answers += [410]
        await box.put(place_of(desk), talk(), contact="ada", note="", page="")
        assert await box.deliver_next()
        assert await connection.redis.zcard("bh:widget:outbox") == 0
        Desk.answers += [500] * 20
        await box.put(place_of(desk), talk(), contact="ada", note="", page="")
        tries = 0
        while await connection.redis.zcard("bh:widget:outbox"):
            tries += await box.deliver_next()
            clock.now_s += 30_000
        assert tries == len(handover.TRY_AFTER_S) + 1
        reasons = [failed.why for failed in await DeliveryStore(connection).failed()]
        assert reasons == ["127.0.0.1 answered 500", "127.0.0.1 answered 410"]


async def test_a_handover_that_failed_is_listed_and_sent_again(page: Page, desk: str) -> None:
    gateway = page.stage.gateway
    await change_widget(page, handover_webhook=desk)
    Desk.answers += [401]
    assert (await page.post("handover", {"contact": "ada@example.com"})).status_code == 202
    store = DeliveryStore(gateway.connection)
    async with asyncio.timeout(10):
        while not await store.failed():  # noqa: ASYNC110  (in Redis)
            await asyncio.sleep(0.01)
    metrics = await page.http.get(f"{page.stage.url}/metrics")
    assert "bunkhouse_handovers_failed 1.0" in metrics.text
    admin = {"authorization": f"Bearer {page.stage.secrets.admin_key}"}
    base = f"{page.stage.url}/admin/v1/handovers"
    [failed] = (await page.http.get(f"{base}/failed", headers=admin)).json()["items"]
    assert (failed["bot"], failed["why"], failed["tries"]) == (BOT, "127.0.0.1 answered 401", 1)
    assert (await page.http.post(f"{base}/{failed['id']}/resend", headers=admin)).status_code == 202
    await until(lambda: len(Desk.taken) == 2, 10)
    assert b"ada@example.com" in Desk.taken[1][1]
    assert (await page.http.get(f"{base}/failed", headers=admin)).json()["items"] == []


async def test_a_gateway_that_dies_with_a_letter_leaves_it_to_the_next(redis_url: str, desk: str) -> None:
    clock = Clock()
    async with connect(redis_url) as connection:

        async def die(url: str, body: bytes, headers: dict[str, str]) -> None:
            raise asyncio.CancelledError

        dying = Outbox(connection, PEPPER, clock, die)
        await dying.put(place_of(desk), talk(), contact="ada", note="", page="")
        with pytest.raises(asyncio.CancelledError):
            await dying.deliver_next()
        box = await outbox(connection, clock)
        assert not await box.deliver_next()  # it may still be in the other's hand
        clock.now_s += handover.IN_HAND_S + 1
        assert await box.deliver_next()
    assert len(Desk.taken) == 1


BROKEN = ["https://desk.example:99999/h", "https://desk.example:80a/h", "https://desk..example/h", "https://[x/h", ""]


async def test_one_letter_that_cannot_be_delivered_stops_no_other(redis_url: str, desk: str) -> None:
    async with connect(redis_url) as connection:
        box = await outbox(connection, Clock())
        for number, url in enumerate(BROKEN):  # written when a configuration could still say so
            await box._store.keep(Delivery(id=f"ho-{number}", bot="acme/help", url=url, body="{}"), 0.0)
        await box.put(place_of(desk), talk(), contact="ada", note="", page="")
        running = asyncio.create_task(box.run())
        await until(lambda: Desk.taken or running.done())
        assert not running.done()
        await ended(running)
        kept = await box._store.failed()
        assert sorted(delivery.id for delivery in kept) == [f"ho-{number}" for number in range(len(BROKEN))]
    assert len(Desk.taken) == 1


async def test_a_bug_costs_its_own_letter_only(redis_url: str) -> None:
    async def stumble(url: str, body: bytes, headers: dict[str, str]) -> None:
        raise RuntimeError("nobody thought of this")

    async with connect(redis_url) as connection:
        box = Outbox(connection, PEPPER, Clock(), stumble)
        await box.put(place_of("https://desk.example/h"), talk(), contact="ada", note="", page="")
        assert await box.deliver_next()
        assert [delivery.why for delivery in await box._store.failed()] == [
            "An internal error occurred; see the gateway's log."
        ]
        assert not await box.deliver_next()


async def test_a_newer_gateways_letter_is_left_to_it(redis_url: str, desk: str) -> None:
    async with connect(redis_url) as connection:
        box = await outbox(connection, Clock())
        await connection.redis.set(keys.widget_letter("ho-new"), b'{"id": "ho-new", "unheard_of": 1}')
        await connection.redis.zadd(keys.WIDGET_OUTBOX, {"ho-new": 0.0})
        await box.put(place_of(desk), talk(), contact="ada", note="", page="")
        assert await box.deliver_next()
        assert await box.deliver_next()
        assert not await box.deliver_next()
        assert await connection.redis.exists(keys.widget_letter("ho-new"))
    assert len(Desk.taken) == 1


async def test_a_desk_that_drips_its_answer_is_left_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = chain(b"HTTP/1.1 200 OK\r\nx-slow: ", repeat(ord("x")))
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(bytes([next(head)]))
                await writer.drain()
                await asyncio.sleep(0.05)
        writer.close()
        left.set()

    left = asyncio.Event()
    monkeypatch.setattr(webhook, "DELIVERY_S_MAX", 0.4)
    async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
        with pytest.raises(WebhookFailed, match="took longer") as failed:
            await asyncio.wait_for(post(url, b"{}", {}), 5)
        await asyncio.wait_for(left.wait(), 5)
    assert not failed.value.final


@pytest.mark.parametrize(
    ("url", "words"),
    [
        *((url, "a port is a number") for url in BROKEN[:2]),
        ("https://desk.example:0/h", "a port is a number"),
        *((f"https://{host}/h", "no host name") for host in ("desk..example", "-desk.example", "a" * 64, "1.2.3")),
        ("https://xn--\u00fc.example/h", "no host name"),
        ("https://desk.example/a b", "no spaces"),
        ("https://desk.example/\x07", "printable"),
        (f"https://desk.example/{'x' * 2000}", "at most 2000"),
        ("https://[x/h", "Invalid IPv6"),
    ],
)
def test_urls_that_lead_nowhere_are_refused_where_they_are_written(url: str, words: str) -> None:
    try:
        problem = str(WidgetConfig(handover_webhook=url).problem())
    except ValidationError as error:
        problem = str(error)
    assert words in problem


async def test_a_name_with_other_letters_is_looked_up_and_told_as_dns_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    url = WidgetConfig(handover_webhook="https://M\u00fcller.example/hook?for=\u00e9").handover_webhook
    assert url is not None
    heard: list[bytes] = []
    looked_up: list[str] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(4096))
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]

        async def resolver(host: str, port: int) -> list[str]:
            looked_up.append(host)
            return ["127.0.0.1"]

        monkeypatch.setattr(outgoing, "allowed", lambda address, loopback: True)
        with pytest.raises(WebhookFailed):
            await post(url.replace("/hook", f":{port}/hook"), b"{}", {}, resolver=resolver)
        monkeypatch.setattr(outgoing, "is_loopback", lambda host: True)  # so that the request is not hidden by TLS
        with pytest.raises(WebhookFailed):
            await post(url.replace("https", "http").replace("/hook", f":{port}/hook"), b"{}", {}, resolver=resolver)
    hello, request = heard
    assert b"xn--mller-kva.example" in hello, "the name that the certificate is asked for"
    assert f"\r\nhost: xn--mller-kva.example:{port}\r\n".encode() in request.lower()
    assert looked_up == ["xn--mller-kva.example"] * 2


async def test_a_visitor_is_answered_at_once(page: Page) -> None:
    asked = await page.say("It cracked!")
    await page.read(asked["chat"])
    began = asyncio.get_running_loop().time()
    told = await page.post("handover", {"session": asked["session"], "contact": "ada@example.com", "note": "please"})
    assert told.status_code == 202
    assert asyncio.get_running_loop().time() - began < 2.0
    shown = (await page.get(f"sessions/{asked['session']}")).json()
    assert shown["handed_over"] is True
    for body in ({"contact": ""}, {"contact": "x" * 300}, {}, {"contact": "ada", "note": "n" * 2000}):
        assert (await page.post("handover", body)).status_code == 400
    codes = [(await page.post("handover", {"contact": "ada@example.com"})).status_code for _ in range(4)]
    assert codes[-1] == 429
    assert page.stage.gateway.directory.registry.bot("alder-ash", BOT) is not None


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("172.16.3.4", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("::7f00:1", False),
    ],
)
def test_addresses(address: str, public: bool) -> None:
    assert allowed(address, loopback=False) is public


async def test_a_name_that_leads_inside_is_refused_before_anything_is_sent() -> None:
    for inside in (["10.0.0.7"], ["93.184.216.34", "127.0.0.1"], ["::ffff:169.254.169.254"], []):

        async def resolver(host: str, port: int, inside: list[str] = inside) -> list[str]:
            return inside

        with pytest.raises(WebhookFailed, match="may not reach") as failed:
            await post("https://shop.example/hook", b"{}", {}, resolver=resolver)
        assert failed.value.final


async def test_plain_http_leaves_this_machine_never() -> None:
    with pytest.raises(WebhookFailed, match="only https"):
        await post("http://shop.example/hook", b"{}", {})


async def test_localhost_that_resolves_elsewhere_is_refused() -> None:
    async def resolver(host: str, port: int) -> list[str]:
        return ["10.0.0.7"]

    with pytest.raises(WebhookFailed, match="may not reach"):
        await post("http://localhost:8000/hook", b"{}", {}, resolver=resolver)


async def test_redirects_are_not_followed(desk: str) -> None:
    Desk.answers += [302]
    with pytest.raises(WebhookFailed, match="answered 302"):
        await post(desk, b"{}", {})
    assert len(Desk.taken) == 1


async def test_a_name_is_connected_to_at_the_address_that_was_checked(
    desk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name stays in the Host header, and the certificate is checked against it: a plain receiver is no TLS peer."""
    port = int(desk.rpartition(":")[2].partition("/")[0])
    monkeypatch.setattr(outgoing, "allowed", lambda address, loopback: True)

    async def resolver(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    with pytest.raises(WebhookFailed, match="SSL"):
        await post(f"https://shop.example:{port}/hook", b"{}", {}, resolver=resolver)
    assert Desk.taken == []
