"""A host starts with another configuration: chats whose model, tenant or bot is gone end and release what they hold."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.config.host_secrets import Secrets
from services.config.schema import Config
from services.contracts.chats import Ticket, TokenPrice
from services.host.host import seed
from services.store import redis_keys as keys
from services.store.audit_log import Note
from services.store.charges import day_of
from services.store.connection import connect
from services.store.registry_edit import edit, read_registry, with_tenant
from services.store.replies import Reader
from services.store.runtime import Runtime
from services.store.submission import Submitted
from services.store.work import ReplyPiece, WorkConsumer
from tests.store.test_submission import NOW_S, PAYLOAD, Host, ticket

NOTE = Note(0.0, "owner", "owner", "tenant.delete", "acme")
SECRETS = Secrets(b"pepper" * 6, b"salt" * 8, "", "")


def runtime(model: str, bots: tuple[str, ...] = ("support",)) -> Runtime:
    """A host with one model and one tenant."""
    settings: dict[str, Any] = {
        "models": {model: {"engine": "llamacpp", "weights": "w.gguf"}},
        "tenants": {"acme": {"bots": {bot: {"model": model} for bot in bots}}},
    }
    return Runtime(Config.model_validate(settings), Path("bunkhouse.yaml"), SECRETS, "", None)


@pytest.fixture
async def host(redis_url: str) -> AsyncIterator[Host]:
    """With three chats: one runs, one is dispatched, one waits. Its scheduler and worker were killed."""
    async with connect(redis_url) as connection:
        host = Host(connection)
        await seed(connection, runtime("m"))
        host.lease = await host.desk.take_lease("", "me", 60_000) or ""
        await host.bench.open()
        for name in ("chat-1", "chat-2", "chat-3"):
            await submit(host, ticket(name))
            if name != "chat-3":
                await host.dispatch(ticket(name))
        [(entry, chat)] = await host.bench.take(1, 10)
        await host.bench.claim(entry, chat)
        yield host


async def submit(host: Host, of: Ticket) -> Submitted:
    version = (await read_registry(host.connection)).version
    return (await host.door.submit(of, PAYLOAD, registry_version=version)).outcome


async def errors(host: Host) -> list[str | None]:
    """How each chat's reply ended, as codes; None: it has not."""
    found: list[str | None] = []
    for number in (1, 2, 3):
        reader = Reader(f"chat-{number}", "0-0")
        await host.hub._read_for([reader])
        entries = await reader.read(0.01)
        end = entries[-1].end
        found.append(end.error.code if end is not None and end.error is not None else None)
    return found


async def test_chats_of_a_renamed_model_end_and_hold_nothing(host: Host) -> None:
    """Their reservations stayed for ever, and with `chats_max: 2` the tenant was never answered again."""
    await seed(host.connection, runtime("renamed"))
    assert await errors(host) == ["model_down"] * 3
    assert await host.desk.reservations() == []
    assert await host.desk.waiting() == []
    assert not await host.connection.redis.exists(keys.ready("m"))
    assert await host.connection.redis.hlen(keys.WAITING) == 0


async def test_chats_of_a_bot_or_tenant_that_is_gone_end(host: Host) -> None:
    await seed(host.connection, runtime("m", bots=("other",)))
    assert await errors(host) == ["model_down"] * 3
    assert await host.bench.backlog() == 0
    assert await submit(host, ticket("chat-4")) is Submitted.OK
    await edit(host.connection, lambda registry: (with_tenant(registry, "acme", None), NOTE))
    await seed(host.connection, runtime("m", bots=("other",)))
    assert await host.desk.waiting() == []


async def test_all_others_go_on(host: Host) -> None:
    await seed(host.connection, runtime("m"))
    assert await errors(host) == [None] * 3
    assert {held.chat for held in await host.desk.reservations()} == {"chat-1", "chat-2"}
    assert [waiting.chat for waiting in await host.desk.waiting()] == ["chat-3"]
    assert await host.bench.backlog() == 2


async def test_a_reservation_whose_chat_was_forgotten_is_released(host: Host) -> None:
    await host.connection.redis.delete(keys.chat("chat-1"))
    await seed(host.connection, runtime("m"))
    assert [held.chat for held in await host.desk.reservations()] == ["chat-2"]


async def test_chats_that_a_worker_had_which_is_not_started_again_end_and_are_billed(host: Host) -> None:
    await host.bench.write([ReplyPiece("chat-1", 1, 1, "Hel", 1), ReplyPiece("chat-1", 1, 2, "lo", 1)])
    assert await host.desk.end_dispatched("m", "It failed.", TokenPrice(), NOW_S) == 2
    assert await errors(host) == ["model_down", "model_down", None]
    assert await host.desk.reservations() == []
    assert await host.bench.backlog() == 0
    usage = await host.connection.redis.hgetall(keys.usage(day_of(NOW_S), "acme", "acme/support"))
    assert (usage[b"completion_tokens"], usage[b"prompt_tokens"]) == (b"2", b"3")
    assert await host.desk.end_dispatched("m", "It failed.", TokenPrice(), NOW_S) == 0


async def test_what_a_provider_took_for_a_chat_that_broke_off_is_counted(host: Host) -> None:
    """Its worker is not started again; what the chat might have cost at most is given back."""
    asked = replace(ticket("chat-3"), overflow_to="second")
    await host.desk.overflow(host.lease, asked, 0.0, microusd=500, microusd_max=None)
    provider = WorkConsumer(host.connection, "overflow:second", "test", "gpt")
    await provider.open()
    [(entry, chat)] = await provider.take(1, 10)
    await provider.claim(entry, chat)
    await provider.write([ReplyPiece(chat, 1, 1, "Hello", 2)])
    assert await host.desk.end_dispatched("overflow:second", "It failed.", TokenPrice(1.0, 10.0), NOW_S) == 1
    assert await host.desk.spent(["acme"], NOW_S) == [3 + 2 * 10]
