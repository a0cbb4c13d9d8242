"""`python -m scheduler CONFIG`: schedule until SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import structlog
import uvloop

from scheduler.loop import Loop
from scheduler.settings import ModelTargets, SchedulerSettings, TenantShare
from services.config.host_secrets import SecretsError
from services.config.schema import Config, ConfigError
from services.contracts.devices import DeviceReport, gpu_index
from services.devices.card import bandwidths, devices
from services.devices.telemetry import GpuSource
from services.process import garbage
from services.process.logs import setup
from services.store.bandwidth import read_measured
from services.store.connection import Connection, QueueUnavailable
from services.store.registry import Registry
from services.store.registry_edit import read_registry, registry_version
from services.store.runtime import PATIENCE_S, Runtime, open_runtime
from services.store.scheduling import SchedulerStore
from services.store.submission import SubmissionClient

REGISTRY_S = 1.0
DEVICE_S = 1.0
NVML_RETRY_S = 60.0

log = structlog.get_logger()


def settings_of(
    config: Config,
    registry: Registry,
    measured: Mapping[str, float] | None = None,
    reported: Mapping[str, str] | None = None,
) -> SchedulerSettings:
    """What the decisions depend on: bounds and targets from the file, shares from the registry, and each device's
    bandwidth. `reported`: the device of each engine that runs, by model."""
    return SchedulerSettings(
        targets={
            name: ModelTargets(model.targets.inter_token_ms_max, model.targets.first_token_s_max)
            for name, model in config.models.items()
        },
        shares={
            name: TenantShare(
                weight=record.config.weight,
                chats_max=record.config.limits.chats_max,
                kv_bytes_max=record.config.limits.kv_bytes_max,
                overflow_microusd_max=_microusd(record.config.limits.overflow_usd_per_month),
            )
            for name, record in registry.tenants.items()
        },
        bandwidth_bytes_per_s=bandwidths(config, measured or {}, devices(config, reported)),
        telemetry_age_s_max=config.scheduler.telemetry_age_s_max,
        session_idle_s=config.scheduler.session_idle_s,
        waiting_max=config.scheduler.waiting_max,
        waiting_per_tenant_max=config.scheduler.waiting_per_tenant_max,
        overflow_after_s=config.scheduler.overflow_after_s,
        overflow_prices={name: provider.price for name, provider in config.overflow.items()},
    )


def _microusd(usd: float | None) -> int | None:
    return None if usd is None else round(usd * 1e6)


class LiveSettings:
    """Settings that follow the registry, the measured bandwidth and the devices that engines report."""

    def __init__(self, connection: Connection, config: Config) -> None:
        self._connection = connection
        self._config = config
        self._now = settings_of(config, Registry())
        self._version = -1
        self._measured: Mapping[str, float] = {}
        self._reported: Mapping[str, str] = {}

    def __call__(self) -> SchedulerSettings:
        return self._now

    async def refresh(self) -> None:
        """Read what changed. Raises QueueUnavailable."""
        version = await registry_version(self._connection)
        measured = await read_measured(self._connection)
        engines = await SubmissionClient(self._connection).engines()
        reported = {name: engine.facts.device for name, engine in engines.items()}
        if (version, measured, reported) != (self._version, self._measured, self._reported):
            self._version, self._measured, self._reported = version, measured, reported
            self._now = settings_of(self._config, await read_registry(self._connection), measured, reported)

    async def follow(self) -> None:
        """Keep following until cancelled."""
        while True:
            with contextlib.suppress(QueueUnavailable):
                await self.refresh()
            await asyncio.sleep(REGISTRY_S)


class GpuWatch(threading.Thread):
    """One GPU's memory as NVML last reported it. A daemon thread asks: a driver that hangs delays neither a decision
    nor the end. Without NVML there is no report, and the engines' own reports have to do.
    """

    def __init__(self, device: str, index: int) -> None:
        super().__init__(name=f"nvml-{device}", daemon=True)
        self.device = device
        self.last: DeviceReport | None = None
        self._index = index

    def run(self) -> None:
        while True:
            source = GpuSource(self._index)
            while (reading := source.read()) is not None:
                self.last = DeviceReport(self.device, time.time(), reading.total_bytes, reading.used_bytes)
                time.sleep(DEVICE_S)
            log.warning("scheduler.no_nvml", device=self.device, why=source.why)
            time.sleep(NVML_RETRY_S)


class LiveDevices:
    """A watch on each GPU that the configuration's models run on. Call it for the last reports."""

    def __init__(self, config: Config) -> None:
        numbered = ((device, gpu_index(device)) for device in devices(config))
        self.watches = [GpuWatch(device, index) for device, index in numbered if index is not None]

    def __call__(self) -> list[DeviceReport]:
        return [watch.last for watch in self.watches if watch.last is not None]

    def start(self) -> None:
        for watch in self.watches:
            watch.start()


async def serve(runtime: Runtime) -> None:
    """Run the loop until SIGTERM. Raises QueueUnavailable when Redis is not there at the start."""
    async with runtime.connect(PATIENCE_S) as connection:
        settings = LiveSettings(connection, runtime.config)
        await settings.refresh()
        live = LiveDevices(runtime.config)
        name = f"{socket.gethostname()}:{os.getpid()}"
        loop = Loop(SchedulerStore(connection), settings, name=name, clock=time.time, devices=live)
        live.start()
        tasks = [asyncio.create_task(loop.run()), asyncio.create_task(settings.follow())]
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        stopping = asyncio.create_task(stopped.wait())
        garbage.freeze_heap()
        done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
        for task in [*tasks, stopping]:
            task.cancel()
        await asyncio.gather(*tasks, stopping, return_exceptions=True)
        with contextlib.suppress(QueueUnavailable):
            await loop.resign()
        for task in done - {stopping}:
            task.result()


def main() -> int:
    """Exit status 1 when Redis is not there, 2 when the configuration is wrong."""
    setup("scheduler")
    try:
        uvloop.run(serve(open_runtime(Path(sys.argv[1]))))
    except (ConfigError, SecretsError) as error:
        log.error("scheduler.cannot_start", why=str(error))
        return 2
    except QueueUnavailable as error:
        log.error("scheduler.ended", why=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
