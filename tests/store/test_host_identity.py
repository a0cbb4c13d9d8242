"""Two hosts on one Redis, and a Redis that may evict keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.config.host_secrets import Secrets
from services.config.schema import Config, ConfigError
from services.host.host import seed
from services.store import redis_keys as keys
from services.store.connection import connect
from services.store.registry_edit import read_registry
from services.store.runtime import Runtime


def runtime(redis_url: str, pepper: bytes, folder: Path, tenant: str = "acme") -> Runtime:
    config = Config.model_validate(
        {
            "data_dir": str(folder),
            "models": {"m": {"engine": "llamacpp", "weights": "w.gguf"}},
            "tenants": {tenant: {"bots": {"support": {"model": "m"}}}},
        }
    )
    return Runtime(config, folder / "bunkhouse.yaml", Secrets(pepper, b"salt" * 8, "", ""), redis_url, None)


@pytest.fixture
def prefixes() -> Iterator[None]:
    yield
    keys.use_prefix("bh")


async def test_another_hosts_redis_is_refused_by_name(redis_url: str, tmp_path: Path) -> None:
    """A staging worker answered production's chats."""
    production, staging = (runtime(redis_url, name * 8, tmp_path / name.decode()) for name in (b"prod", b"test"))
    async with production.connect(), production.connect():
        pass
    with pytest.raises(ConfigError, match=r"belongs to .*/prod. Give this host a redis.prefix") as refused:
        async with staging.connect():
            pass
    assert "secrets.json" in str(refused.value)


async def test_two_prefixes_live_side_by_side(redis_url: str, tmp_path: Path, prefixes: None) -> None:
    found = {}
    for name in ("one", "two"):
        keys.use_prefix(name)
        host = runtime(redis_url, name.encode() * 8, tmp_path / name, tenant=name)
        async with host.connect() as connection:
            await seed(connection, host)
            found[name] = set((await read_registry(connection)).tenants)
            assert await connection.redis.keys("bh:*") == []
    assert found == {"one": {"one"}, "two": {"two"}}
    assert keys.chat("x") == "two:chat:x"
    assert keys.REGISTRY == "two:registry"
    assert keys.CELERY_QUEUE == "two:celery:jobs"


@pytest.mark.parametrize(("policy", "warned"), [("noeviction", []), ("allkeys-lru", ["redis.evicts"])])
async def test_a_redis_that_evicts_is_warned_of(redis_url: str, tmp_path: Path, policy: str, warned: list[str]) -> None:
    host = runtime(redis_url, b"pepper" * 8, tmp_path)
    async with connect(redis_url) as connection:
        await connection.redis.config_set("maxmemory-policy", policy)
        try:
            with capture_logs() as logged:
                await seed(connection, host)
        finally:
            await connection.redis.config_set("maxmemory-policy", "noeviction")
    assert [line["event"] for line in logged if line["event"] == "redis.evicts"] == warned
