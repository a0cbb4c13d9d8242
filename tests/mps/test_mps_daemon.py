"""The daemon as the host's child, and who joined it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from services.config.schema import Config
from services.contracts.devices import Sharing
from services.devices.mps import MpsControl, MpsSilent
from services.host.mps.daemon import FOLDER_BYTES_MAX, MpsDaemon, daemon_trouble, folder_of
from services.store.connection import connect
from services.store.mps_states import read_mps_states
from services.store.runtime import open_runtime
from services.worker.gpu_sharing import GpuSharing
from tests.host_process import ROOT, program, wait_for
from tests.mps.stand_in import install

CLIENT = "import sys, time; from tests.mps.stand_in import join; join(); print('joined', flush=True); time.sleep(600)"


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MpsDaemon:
    for name, value in install(tmp_path).items():
        if name == "PATH":
            monkeypatch.setenv(name, value)
    return MpsDaemon("gpu0", tmp_path / "m", tmp_path / "log", os.environ)


@pytest.fixture
def client(daemon: MpsDaemon) -> Iterator[list[subprocess.Popen[str]]]:
    """Call `begin` to start one."""
    begun: list[subprocess.Popen[str]] = []
    yield begun
    for each in begun:
        each.kill()
        each.wait()


def begin(daemon: MpsDaemon, clients: list[subprocess.Popen[str]]) -> None:
    """A CUDA program of this process."""
    env = {**os.environ, **daemon.environment}
    argv = [sys.executable, "-c", CLIENT]
    clients.append(subprocess.Popen(argv, env=env, cwd=ROOT, text=True, stdout=subprocess.PIPE))
    out = clients[-1].stdout
    assert out is not None
    with out:
        assert out.readline() == "joined\n"


async def test_clients_are_seen_and_a_lost_server_is_noticed(
    daemon: MpsDaemon, client: list[subprocess.Popen[str]]
) -> None:
    control, mine = MpsControl(daemon.pipe), GpuSharing(MpsControl(daemon.pipe))
    await daemon.start()
    try:
        assert await daemon.trouble() == ""
        assert await control.servers() == {}
        assert await mine.look()
        assert mine.sharing is Sharing.TURNS
        await asyncio.to_thread(begin, daemon, client)
        (server, clients), *_ = (await control.servers()).items()
        assert clients == {client[0].pid}
        assert await mine.look()
        modes = [mine.sharing]
        psutil.Process(server).kill()
        wait_for(lambda: client[0].poll() is not None, 10)
        assert [await mine.look(), await mine.look()] == [True, False], "one miss may be a slow answer"
        mine.restarted()
        assert [*modes, mine.sharing] == [Sharing.SPACE, Sharing.TURNS]
        looks = []
        for _ in range(8):
            looks.append(await mine.look())
            if not looks[-1]:
                mine.restarted()
        assert looks == [True, False] * 2 + [True] * 4, "it came back and did not join: two more tries"
    finally:
        await daemon.stop()
    with pytest.raises(MpsSilent):
        await control.servers()


async def test_what_an_earlier_run_left_is_ended_first(daemon: MpsDaemon, client: list[subprocess.Popen[str]]) -> None:
    await daemon.start()
    assert await daemon.trouble() == ""
    await asyncio.to_thread(begin, daemon, client)
    (server, _), *_ = (await MpsControl(daemon.pipe).servers()).items()
    old = daemon.process
    assert old is not None
    old.kill()  # its server lives on
    await old.wait()
    assert psutil.pid_exists(server)
    await daemon.start()
    try:
        assert await daemon.trouble() == ""
        assert not psutil.pid_exists(server) or psutil.Process(server).status() == psutil.STATUS_ZOMBIE
        assert await MpsControl(daemon.pipe).servers() == {}
    finally:
        await daemon.stop()


async def test_one_that_ends_at_once_is_named_with_its_words(tmp_path: Path, daemon: MpsDaemon) -> None:
    fails = MpsDaemon("gpu0", tmp_path / "m", tmp_path / "log", {**os.environ, "BUNKHOUSE_TEST_MPS_FAILS": "1"})
    await fails.start()
    assert "An instance of this daemon is already running" in await fails.trouble()
    await fails.stop()


def test_sockets_get_a_path_that_is_short_enough(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 90)
    models = {"m": {"engine": "sglang", "weights": "w"}}
    folder = folder_of(Config.model_validate({"data_dir": long, "models": models}), "gpu0")
    assert len(str(folder)) <= FOLDER_BYTES_MAX
    other = folder_of(Config.model_validate({"data_dir": f"{long}y", "models": models}), "gpu0")
    assert other != folder


async def test_in_a_container_it_is_a_program_of_its_own(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts the daemon again when that is killed, tells the host, and its health check knows."""
    environment = install(tmp_path) | {"BUNKHOUSE_REDIS_URL": redis_url}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "host.yaml"
    path.write_text(f"data_dir: {tmp_path}/d\nmemory: {{sharing: auto}}\nmodels: {{m: {{engine: sglang, weights: w}}}}")
    runtime = open_runtime(path)
    with program([sys.executable, "-P", "-m", "services.host.mps", str(path)], tmp_path / "log") as running:
        async with connect(redis_url) as connection:

            async def well() -> str | None:
                return await daemon_trouble(runtime.config, await read_mps_states(connection))

            async with asyncio.timeout(30):
                while await well():  # noqa: ASYNC110  (another process)
                    await asyncio.sleep(0.1)
            (state,) = (await read_mps_states(connection)).values()
            assert not state.why_not
            daemon = psutil.Process(running.pid).children()[0]
            daemon.kill()
            async with asyncio.timeout(30):
                while daemon.is_running() or await well():  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
