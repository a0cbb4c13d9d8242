"""The embedded server is a real one: it keeps what it was told, and lets nobody in without its password."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from services.store.connection import QueueUnavailable, connect
from services.store.embedded_redis import EmbeddedRedis, EmbeddedRedisError


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bh-") as name:  # short: a socket's path has about 100 bytes
        yield Path(name)


def server(folder: Path) -> EmbeddedRedis:
    return EmbeddedRedis(folder / "redis", folder / "redis" / "s", "hunter2", folder / "redis.log")


async def test_what_was_written_survives_a_stop_and_a_kill(folder: Path) -> None:
    redis = server(folder)
    for number in range(3):
        await redis.start()
        async with connect(redis.url, password="hunter2") as connection:
            assert await connection.redis.incr("starts") == number + 1
        if number == 0:
            await redis.stop()
        else:
            assert redis.process is not None
            redis.process.kill()
            await redis.process.wait()


async def test_a_process_that_starts_waits_for_room_on_the_disk(folder: Path) -> None:
    redis = server(folder)
    await redis.start()
    assert redis.process is not None
    try:
        async with connect(redis.url, password="hunter2") as connection:
            await connection.redis.set("a", 1)
            full = resource.prlimit(redis.process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(redis.process.pid, resource.RLIMIT_FSIZE, (1, full[1]))
            with contextlib.suppress(ResponseError):  # MISCONF, once the server has met the full disk
                while True:
                    await connection.redis.incr("a")
        with pytest.raises(QueueUnavailable, match="MISCONF"):
            async with connect(redis.url, password="hunter2"):
                pass

        async def starts() -> int:
            async with connect(redis.url, password="hunter2", patience_s=60.0) as connection:
                return int(await connection.redis.incr("a"))

        starting = asyncio.create_task(starts())
        await asyncio.sleep(0.7)
        assert not starting.done()
        resource.prlimit(redis.process.pid, resource.RLIMIT_FSIZE, full)
        assert await starting > 1
    finally:
        await redis.stop()


async def test_it_asks_for_its_password(folder: Path) -> None:
    redis = server(folder)
    await redis.start()
    try:
        for password in (None, "wrong"):
            with pytest.raises(QueueUnavailable):
                async with connect(redis.url, password=password):
                    pass
        assert (redis.folder / "redis.conf").stat().st_mode & 0o077 == 0
        assert redis.socket.stat().st_mode & 0o077 == 0
    finally:
        await redis.stop()


async def test_a_second_server_on_the_same_folder_is_refused(folder: Path) -> None:
    redis = server(folder)
    await redis.start()
    try:
        with pytest.raises(EmbeddedRedisError, match="another server listens"):
            await server(folder).start()
    finally:
        await redis.stop()
        await redis.stop()


async def test_a_server_that_cannot_start_says_why(folder: Path) -> None:
    redis = server(folder)
    data = redis.folder / "appendonlydir"
    data.mkdir(parents=True)
    (data / "appendonly.aof.manifest").write_text("nonsense\n")
    with pytest.raises(EmbeddedRedisError, match=r"(?s)did not come up.*manifest"):
        await redis.start()


async def test_a_tail_that_a_power_cut_left_is_cut_and_kept(folder: Path) -> None:
    said: list[str] = []
    redis = EmbeddedRedis(folder / "redis", folder / "redis" / "s", "hunter2", folder / "redis.log", said.append)
    file = await _written(redis)
    whole = file.read_bytes()
    file.write_bytes(whole + bytes(5000))
    await redis.start()
    try:
        async with connect(redis.url, password="hunter2") as connection:
            assert await connection.redis.get("last") == b"9"
    finally:
        await redis.stop()
    assert file.read_bytes().startswith(whole)
    kept = folder / "redis" / f"{file.name}.cut-at-{len(whole)}"
    assert kept.read_bytes() == bytes(5000)
    assert said == [
        f"Redis: the last 5,000 bytes of {file.name} could not be read and were cut; they are kept in {kept}. "
        "A power cut leaves such bytes; what was written in its last seconds may be lost."
    ]


async def test_damage_in_the_middle_is_not_cut(folder: Path) -> None:
    redis = server(folder)
    file = await _written(redis)
    whole = file.read_bytes()
    damaged = whole + b"xx" + whole[-30:] * 40_000
    file.write_bytes(damaged)
    with pytest.raises(EmbeddedRedisError, match=rf"{file} is damaged at byte {len(whole)}.*truncate -s {len(whole)} "):
        await redis.start()
    assert file.read_bytes() == damaged


async def _written(redis: EmbeddedRedis) -> Path:
    """Its append-only file, after ten writes and a stop."""
    await redis.start()
    async with connect(redis.url, password="hunter2") as connection:
        for number in range(10):
            await connection.redis.set("last", number)
    await redis.stop()
    (file,) = (redis.folder / "appendonlydir").glob("*.incr.aof")
    return file
