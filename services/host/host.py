"""One host from start to stop: lock, Redis, registry, processes, ready, keep, stop in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import structlog

from services.config.api_keys import ready_key
from services.config.host_secrets import secrets_path
from services.contracts.devices import MpsState
from services.contracts.engines import provider_model
from services.host.child import Child, ChildState, EngineGaveUp, GaveUp
from services.host.claims import data_dir_lock, gateway_port
from services.host.display import Display
from services.host.mps.daemon import daemon_of, shared_devices
from services.host.programs import Program, programs
from services.host.readiness import Readiness
from services.host.state_file import STATE_FILE, HostState, write_state
from services.process.log_files import rotated_logs
from services.process.ports import url_host
from services.store import registry_edit
from services.store.connection import Connection, retried
from services.store.embedded_redis import EmbeddedRedis
from services.store.engine_records import EngineRecords
from services.store.host_identity import warn_of_eviction
from services.store.mps_states import write_mps_states
from services.store.orphans import Orphans
from services.store.runtime import PATIENCE_S, Runtime, redis_dir, redis_socket

POLL_S = 0.2
LOGS = "logs"

log = structlog.get_logger()


class HostFailed(Exception):
    """The host cannot go on. The message says which part and why."""


class Host:
    """All processes of one `bunkhouse up`."""

    def __init__(self, runtime: Runtime, display: Display, left_out: Mapping[str, str] | None = None) -> None:
        """`left_out`: models that cannot run as configured, with the reason; the others are served."""
        self._runtime = runtime
        self._config = runtime.config
        self._display = display
        self._logs_dir = self._config.data_dir.absolute() / LOGS
        self._begin_s = time.time()
        self._stop_asked = asyncio.Event()
        self._groups: list[list[Child]] = []  # in the order in which they stop
        self._tasks: dict[asyncio.Task[None], Child] = {}
        self._url = ""
        self._serving = False
        self._left_out = left_out or {}
        self._lost: set[str] = set(self._left_out)  # models whose engines do not start
        self._marks: set[asyncio.Task[None]] = set()  # that write down what was given up

    async def run(self) -> None:
        """Up, until SIGINT, SIGTERM or SIGHUP. Raises AlreadyClaimed, HostFailed, QueueUnavailable."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup bunkhouse up` outlives its terminal
                loop.add_signal_handler(number, self._signalled)
        with data_dir_lock(self._config.data_dir):
            port = gateway_port(self._config.gateway.host, self._config.gateway.port)
            self._url = f"http://{url_host(self._config.gateway.host)}:{port}"
            async with rotated_logs(self._logs_dir):
                try:
                    await self._start(port)
                    await self._until_ready()
                    await self._until_stopped()
                finally:
                    self._display.close()
                    await self._stop()

    def _signalled(self) -> None:
        if self._stop_asked.is_set():
            for child in self._children:
                if child.status.pid is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(child.status.pid, signal.SIGKILL)
        self._stop_asked.set()

    @property
    def _children(self) -> list[Child]:
        return [child for group in self._groups for child in group]

    async def _start(self, port: int) -> None:
        if self._config.redis.url == "embedded":
            await self._start_redis()
        async with self._runtime.connect(PATIENCE_S) as connection:
            await seed(connection, self._runtime)
            await EngineRecords(connection).give_up(self._left_out)
        for name, why in self._left_out.items():
            log.error("model.left_out", model=name, why=why)
            self._report(f"The others go on without model {name}: {why}")
        env = {**os.environ, "BUNKHOUSE__GATEWAY__PORT": str(port), **await self._share_gpus()}
        served = [model for model in self._config.models if model not in self._left_out]
        groups = programs(self._config, served, self._runtime.config_path.absolute(), self._logs_dir, env)
        self._groups[:0] = [[self._keep(program) for program in group] for group in groups]

    async def _start_redis(self) -> None:
        folder, socket = redis_dir(self._config), redis_socket(self._config)
        password = self._runtime.secrets.redis_password
        redis = EmbeddedRedis(folder, socket, password, self._logs_dir / "redis.log", self._repaired)
        child = self._keep(redis)
        self._groups.append([child])
        while child.status.state is not ChildState.RUNNING:
            await self._watch(POLL_S / 10)
            self._check_stop()

    async def _share_gpus(self) -> Mapping[str, str]:
        """Start the MPS daemons, and return what engines need to join. Raises HostFailed where one is demanded and
        cannot be."""
        states: dict[str, MpsState] = {}
        joining: dict[str, str] = {}
        for device in shared_devices(self._config):
            daemon, state = daemon_of(self._config, device, self._logs_dir, os.environ)
            if not state.why_not:
                child = self._keep(daemon)
                self._groups.insert(0, [child])
                state = replace(state, why_not=await daemon.trouble())
                if state.why_not:
                    await self._drop(child)
                else:
                    joining |= daemon.environment
            if state.why_not and self._config.memory.sharing == "space":
                raise HostFailed(f"memory.sharing is `space`, but {device} cannot be shared so: {state.why_not}")
            if state.why_not:
                self._report(f"Engines take turns on {device}: {state.why_not}.")
            states[device] = state
        async with self._runtime.connect(PATIENCE_S) as connection:
            await write_mps_states(connection, states)
        return joining

    async def _drop(self, child: Child) -> None:
        """Go on without it, as if it had not been started."""
        for task in [task for task, of in self._tasks.items() if of is child]:
            del self._tasks[task]
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await child.stop()
        self._groups.remove([child])

    def _keep(self, program: Program) -> Child:
        child = Child(program, self._changed)
        self._tasks[asyncio.create_task(child.run(), name=program.name)] = child
        return child

    def _changed(self, child: Child) -> None:
        if child.status.state is ChildState.WAITING:
            self._report(f"{child.name} died: {child.last_error}. It is started again.")
        try:
            self._write_state()
        except OSError as error:  # on a full disk running chats wait; so do those who read this file
            log.error("host.state_not_written", why=str(error))

    def _report(self, words: str) -> None:
        """To the operator, whose terminal may be gone, or be a file on a full disk."""
        with contextlib.suppress(OSError):
            self._display.event(words)

    def _repaired(self, words: str) -> None:
        log.warning("redis.file_cut", what=words)
        self._report(words)

    def _write_state(self) -> None:
        children = tuple(child.status for child in self._children)
        config = str(self._runtime.config_path.absolute())
        write_state(self._config.data_dir, HostState(os.getpid(), self._url, config, self._begin_s, children))

    async def _until_ready(self) -> None:
        async with self._runtime.connect(PATIENCE_S) as connection:
            readiness = Readiness(self._config, connection, self._url, self._begin_s)
            try:
                steps = await readiness.look(self._lost)
                while not all(step.done for step in steps):
                    self._display.steps(steps)
                    await self._watch(POLL_S)
                    self._check_stop()
                    steps = await readiness.look(self._lost)
            finally:
                await readiness.close()
        self._serving = True
        found = {name: tenant for name, tenant in self._config.tenants.items() if tenant.ready_key}
        ready = {name: ready_key(name, self._runtime.secrets.pepper) for name in found}
        chats = {name: f"{name}/{next(iter(tenant.bots))}" for name, tenant in found.items() if tenant.bots}
        secrets_file = str(secrets_path(self._config.data_dir))
        self._display.ready(self._url, ready, chats, time.time() - self._begin_s, secrets_file)

    async def _until_stopped(self) -> None:
        while not self._stop_asked.is_set():
            await self._watch(3600.0)

    def _check_stop(self) -> None:
        if self._stop_asked.is_set():
            raise HostFailed("stopped before it was ready")

    async def _watch(self, seconds: float) -> None:
        """Wait that long, or until asked to stop. Raises HostFailed when a part that is needed gave up."""
        asked = asyncio.create_task(self._stop_asked.wait())
        ended, _ = await asyncio.wait({asked, *self._tasks}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        for task in ended - {asked}:
            child = self._tasks.pop(task)  # type: ignore[arg-type]
            self._gave_up(child, task.exception())

    def _gave_up(self, child: Child, error: BaseException | None) -> None:
        """During start-up every part is needed, but a model whose engine does not start where others do. Later, the
        others serve on without a model that gave up."""
        if not isinstance(error, GaveUp):
            raise HostFailed(f"{child.name}: {error!r}") from error
        log.error("child.gave_up", child=child.name)
        if isinstance(error, EngineGaveUp) and child.name.startswith("worker "):
            self._lost.add(child.name.removeprefix("worker "))
        elsewhere = isinstance(error, EngineGaveUp) and self._lost < set(self._config.models)
        elsewhere = elsewhere or child.name.startswith("mps")
        if not (self._serving or elsewhere) or not child.name.startswith(("worker", "overflow", "jobs", "mps")):
            raise HostFailed(str(error)) from error
        self._report(f"The others go on without it: {error}")
        kind, _, name = child.name.partition(" ")
        if kind in ("worker", "overflow"):
            self._mark_given_up(name if kind == "worker" else provider_model(name))

    def _mark_given_up(self, model: str) -> None:
        """Have the scheduler end its chats, also when Redis answers again only later."""
        task = asyncio.create_task(retried(partial(self._write_given_up, model)))
        self._marks.add(task)
        task.add_done_callback(self._marks.discard)

    async def _write_given_up(self, model: str) -> None:
        async with self._runtime.connect() as connection:
            await EngineRecords(connection).give_up([model])

    async def _stop(self) -> None:
        tasks = (*self._tasks, *self._marks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for group in self._groups:
            for error in await asyncio.gather(*(child.stop() for child in group), return_exceptions=True):
                if error is not None:  # whatever it is, the next groups must be stopped, too
                    log.error("child.stop_failed", why=repr(error))
        (self._config.data_dir / STATE_FILE).unlink(missing_ok=True)


async def seed(connection: Connection, runtime: Runtime) -> None:
    """Bring the stored registry up to the configuration, delete an earlier run's reports on its engines, and end chats
    whose model, tenant or bot is gone.

    Raises QueueUnavailable.
    """
    config, now_s = runtime.config, time.time()
    await warn_of_eviction(connection)
    await registry_edit.seed(connection, config, runtime.secrets.pepper, now_s)
    await EngineRecords(connection).forget_run(config.models)
    served = {*config.models, *map(provider_model, config.overflow)}
    await Orphans(connection, served, await registry_edit.read_registry(connection)).end(now_s)
