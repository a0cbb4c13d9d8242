"""What only Redis knows comes back out of a file: tenants and their keys, admin keys, usage."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from services.config.api_keys import digest, new_key
from services.config.schema import BotConfig, TenantConfig
from services.store import redis_keys as keys
from services.store import usage_report
from services.store.admin_keys import StoredAdmin, admin_keys, keep_admin_key
from services.store.backup import BadBackup, export, parse, restore
from services.store.charges import count_refusal
from services.store.connection import Connection, connect
from services.store.registry import KeyRecord, Keyring, Registry, TenantRecord
from services.store.registry_edit import read_registry, write_registry

PEPPER = b"p" * 32
DAY = "2026-11-20"


@pytest.fixture
async def connection(redis_url: str) -> AsyncIterator[Connection]:
    async with connect(redis_url) as connection:
        yield connection


def tenant(key: str = "") -> TenantRecord:
    made = (KeyRecord(id="k1", digest=digest(key, PEPPER), created_s=1.0),) if key else ()
    return TenantRecord(config=TenantConfig(bots={"support": BotConfig(model="m")}), keys=made)


async def fill(connection: Connection, key: str) -> None:
    """A host that has served: one tenant made by the admin API, an admin key, usage of two days."""
    registry = Registry(version=1, tenants={"acme": tenant(key)}, deleted={"gone": "seed"})
    assert await write_registry(connection, 0, registry)
    await keep_admin_key(connection, StoredAdmin("a1", "Ann", "operator", "digest", 5.0))
    for day, chats in ((DAY, 3), ("2026-01-01", 7)):
        name = keys.usage(day, "acme", "acme/support")
        counters = {"chats": chats, "finish:stop": chats, "prompt_tokens": 90, "kv_byte_seconds": 12.5}
        await connection.redis.hset(name, mapping=counters)
        await connection.redis.sadd(keys.USAGES, name)
    await usage_report.roll_up(connection, "2026-01-01", time.time())  # its counters are given up
    await count_refusal(connection, "acme", "acme/support", "queue_full", time.time())


async def test_a_redis_that_lost_its_data_gets_it_back(connection: Connection) -> None:
    key = new_key()
    await fill(connection, key)
    usage = await usage_report.rows(connection, "2000-01-01", "2999-12-31")
    assert len(usage) == 3
    document = (await export(connection, PEPPER, 9.0)).model_dump_json().encode()
    await connection.redis.flushall()
    done = await restore(connection, parse(document, PEPPER), time.time())
    assert (done.tenants, done.admins, done.usage_rows, done.usage_rows_left) == (1, 1, 3, 0)
    registry = await read_registry(connection)
    assert Keyring(registry, PEPPER).tenant_of(key, time.time()) == "acme"
    assert registry.bot("acme", "acme/support") == BotConfig(model="m")
    assert registry.deleted == {"gone": "seed"}
    assert [admin.name for admin in await admin_keys(connection)] == ["Ann"]
    assert await usage_report.rows(connection, "2000-01-01", "2999-12-31") == usage


async def test_an_import_leaves_what_is_there_and_counts_nothing_twice(connection: Connection) -> None:
    await fill(connection, new_key())
    backup = await export(connection, PEPPER, 9.0)
    usage = await usage_report.rows(connection, "2000-01-01", "2999-12-31")
    registry = await read_registry(connection)
    newer = registry.model_copy(update={"version": 2, "tenants": {**registry.tenants, "globex": tenant()}})
    assert await write_registry(connection, 1, newer)
    for _ in range(2):
        done = await restore(connection, backup, time.time())
        assert (done.usage_rows, done.usage_rows_left) == (0, 3)
    assert set((await read_registry(connection)).tenants) == {"acme", "globex"}
    assert await usage_report.rows(connection, "2000-01-01", "2999-12-31") == usage


async def test_a_file_of_other_secrets_or_of_something_else_is_refused(connection: Connection) -> None:
    document = (await export(connection, PEPPER, 9.0)).model_dump_json().encode()
    assert PEPPER not in document
    with pytest.raises(BadBackup, match="other secrets"):
        parse(document, b"q" * 32)
    for data in (b"{}", b"no JSON", document.replace(b'"format":1', b'"format":2')):
        with pytest.raises(BadBackup, match="not an export of this version"):
            parse(data, PEPPER)
