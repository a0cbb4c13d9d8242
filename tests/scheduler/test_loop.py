"""What the scheduler's process hears of the device that its engines are on."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from scheduler import __main__ as program
from scheduler import loop as loop_module
from scheduler.loop import Loop
from scheduler.settings import SchedulerSettings
from services.config.schema import Config, MemoryConfig, ModelConfig
from services.contracts.devices import CPU, DeviceReport
from services.contracts.engines import EngineReport, EngineState
from services.contracts.snapshot import ModelSnapshot
from services.devices.telemetry import GpuReading
from services.store import redis_keys as keys
from services.store.connection import connect
from services.store.scheduling import SchedulerStore
from services.store.submission import SubmissionClient
from services.store.work import WorkConsumer

from .kit import facts

GIB = 2**30


async def test_what_strangers_take_of_a_full_device_is_withheld_by_the_loop(redis_url: str) -> None:
    engine = facts(weight_bytes=6 * GIB, kv_budget_bytes=10 * GIB, device="gpu0")
    now = time.time()
    full = DeviceReport("gpu0", now, 20 * GIB, 20 * GIB)  # 16 of them are the engine's
    async with connect(redis_url) as connection:
        await WorkConsumer(connection, "m", "m@0").publish_engine(engine, EngineReport("m", now, EngineState.READY))
        loop = Loop(SchedulerStore(connection), SchedulerSettings, name="test", clock=time.time, devices=lambda: [full])
        leading = asyncio.create_task(loop.run())
        try:
            async with asyncio.timeout(20):
                while not (snapshot := await SubmissionClient(connection).snapshot()) or "m" not in snapshot.models:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        finally:
            leading.cancel()
            await asyncio.gather(leading, return_exceptions=True)
    assert snapshot.devices["gpu0"].drift_bytes == 4 * GIB
    assert snapshot.models["m"].withheld_bytes == 4 * GIB


READINGS = (None, GpuReading("Test 24", 24 * GIB, 9 * GIB), GpuReading("Test 24", 24 * GIB, 5 * GIB))


class Source:
    """A driver that goes away and comes back."""

    readings = iter(READINGS)
    why = "NVML: gone"

    def __init__(self, index: int) -> None:
        self.index = index

    def read(self) -> GpuReading | None:
        return next(self.readings)


def test_nvml_is_asked_for_the_models_that_are_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "GpuSource", Source)
    monkeypatch.setattr(program, "DEVICE_S", 0.0)
    monkeypatch.setattr(program, "NVML_RETRY_S", 0.0)
    models = {
        "big": ModelConfig(engine="sglang", weights="x/y"),
        "small": ModelConfig(engine="llamacpp", weights="x/z"),
    }
    devices = program.LiveDevices(Config(models=models))
    assert devices() == []
    (watch,) = devices.watches
    with pytest.raises(StopIteration):
        watch.run()
    (report,) = devices()
    assert (report.device, report.total_bytes, report.used_bytes) == ("gpu0", 24 * GIB, 5 * GIB)


async def test_the_configured_bandwidth_is_that_of_the_device_engines_report(redis_url: str) -> None:
    async with connect(redis_url) as connection:
        model = ModelConfig(engine="sglang", device="cuda", weights="x/y")
        config = Config(models={"m": model}, memory=MemoryConfig(bandwidth_bytes_per_s=1e12))
        settings = program.LiveSettings(connection, config)
        await settings.refresh()
        assert settings().bandwidth_bytes_per_s == {"gpu0": 1e12}
        report = EngineReport("m", time.time(), EngineState.READY)
        await WorkConsumer(connection, "m", "m@0").publish_engine(replace(facts(), device=CPU), report)
        await settings.refresh()
        assert settings().bandwidth_bytes_per_s == {CPU: 1e12}


async def test_whoever_takes_over_knows_how_fast_the_engines_are(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would let in at once all that waits, as on an engine that nothing is known of."""
    monkeypatch.setattr(loop_module, "LEARNED_S", 0.0)
    settings = SchedulerSettings(bandwidth_bytes_per_s={CPU: 1e5})
    engine = facts()

    async with connect(redis_url) as connection:
        worker = WorkConsumer(connection, "m", "m@0")

        async def lead(*, teach: bool) -> ModelSnapshot:
            """A scheduler's whole life; what it knows of the model in the end."""
            loop = Loop(SchedulerStore(connection), lambda: settings, name="test", clock=time.time)
            leading = asyncio.create_task(loop.run())
            try:
                async with asyncio.timeout(20):
                    while True:
                        report = EngineReport("m", time.time(), EngineState.READY)
                        if teach:
                            report = replace(report, inter_token_s=0.02, prefill_tokens_per_s=5000.0)
                        await worker.publish_engine(engine, report)
                        await asyncio.sleep(0.05)
                        snapshot = await SubmissionClient(connection).snapshot()
                        model = snapshot.models.get("m") if snapshot else None
                        if model and (model.correction > 1.05 or not teach):
                            return model
            finally:
                leading.cancel()
                await asyncio.gather(leading, return_exceptions=True)
                await loop.resign()
                await connection.redis.delete(keys.SNAPSHOT)

        taught = await lead(teach=True)
        found = await lead(teach=False)
    assert found.correction == pytest.approx(taught.correction, rel=0.2)
    assert found.correction > 1.05
    assert found.prefill_tokens_per_s == 5000.0
