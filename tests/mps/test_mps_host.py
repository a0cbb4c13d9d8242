"""A host whose engines share a GPU in space: they join, they are seen to, and they survive what kills the daemon.

MPS is a stand-in here (`stand_in`), the engines are llama.cpp's on a processor, everything else is the real host.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from subprocess import PIPE

import httpx
import psutil
import pytest
import yaml

from tests.end_to_end import streams
from tests.host_process import LAPTOP, START_S_MAX, HostProcess, command, run_host, up, wait_for
from tests.mps.stand_in import CONTROL, ENGINE, SERVER, install

BACK_S_MAX = 60.0
IN_SPACE = 'bunkhouse_device_in_space{device="gpu0"} 1.0'


def write_config(folder: Path, sharing: str) -> Path:
    """The laptop example, as if its models ran on a GPU."""
    config = yaml.safe_load(LAPTOP.read_text())
    config["memory"] = {"sharing": sharing, "card": "16GB", "bandwidth_bytes_per_s": 2e10}
    config["data_dir"] = str(folder / "data")
    for model in config["models"].values():
        model |= {"device": "cuda", "threads": 1, "context_tokens": 512, "chats_max": 2}
    path = folder / "host.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    folder = tmp_path_factory.mktemp("mps")
    path = write_config(folder, "auto")
    with run_host(folder / "data", path, START_S_MAX, **install(folder)) as host:
        host.config = path
        yield host
    left = (each.info for each in psutil.process_iter(["name", "status"]))
    assert not [each for each in left if each["name"] == SERVER[:15] and each["status"] != psutil.STATUS_ZOMBIE]


def listed(host: HostProcess) -> Mapping[str, object]:
    """What `bunkhouse ps` says of the GPU."""
    asked = command(host.config, "ps", str(host.config), "--json")
    assert not asked.returncode, asked.stderr
    found: Mapping[str, object] = json.loads(asked.stdout)["devices"][0]
    return found


def below(process: psutil.Process) -> Iterator[tuple[psutil.Process, list[str]]]:
    """What it started, with their command lines."""
    for each in process.children(recursive=True):
        try:
            yield each, each.cmdline()
        except psutil.Error:
            continue


def engines(host: HostProcess) -> set[int]:
    """Process ids of the engines."""
    return {each.pid for each, line in below(psutil.Process(host.process.pid)) if ENGINE in line}


def program(host: HostProcess, name: str) -> psutil.Process:
    """The daemon, or its server."""
    programs = [(each, line) for each, line in below(psutil.Process(host.process.pid)) if name in " ".join(line)]
    return next(each for each, line in programs if name == SERVER or "-f" in line)


def running(host: HostProcess) -> int:
    """Chats on the engines."""
    lines = httpx.get(f"{host.url}/metrics").text.splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith("bunkhouse_chats_running{"))


def in_space(host: HostProcess) -> bool:
    return IN_SPACE in httpx.get(f"{host.url}/metrics").text


def test_engines_join_and_the_host_says_so(shared: HostProcess) -> None:
    wait_for(lambda: in_space(shared), BACK_S_MAX)
    seen = listed(shared)
    assert (seen["device"], seen["sharing"], seen["why_not"]) == ("gpu0", "space", "")
    assert seen["joined"] == ["smollm2-kv4", "smollm2-kv8"]
    names = [
        row["name"]
        for row in json.loads(command(shared.config, "ps", str(shared.config), "--json").stdout)["processes"]
    ]
    assert "mps gpu0" in names


@pytest.mark.parametrize("name", [CONTROL, SERVER])
async def test_killed_its_engines_come_back_and_chats_are_answered(shared: HostProcess, name: str) -> None:
    wait_for(lambda: in_space(shared), BACK_S_MAX)
    before = engines(shared)
    async with httpx.AsyncClient(timeout=httpx.Timeout(120)) as client:
        chats = [
            asyncio.create_task(streams.chat(client, shared, tenant, f"Count to {n}.", max_tokens=120))
            for n in range(2)
            for tenant in ("acme", "globex")
        ]
        await asyncio.to_thread(wait_for, lambda: running(shared) > 1, BACK_S_MAX)
        program(shared, name).kill()
        heard = await asyncio.gather(*chats)
    for each in heard:
        each.check()
        assert each.done
        assert not each.error
    wait_for(lambda: not before & engines(shared) and in_space(shared), BACK_S_MAX)
    assert not before & engines(shared), "every engine of the card was started anew"
    assert in_space(shared)


async def test_a_killed_engine_leaves_its_neighbour_running(shared: HostProcess) -> None:
    wait_for(lambda: in_space(shared), BACK_S_MAX)
    victim, neighbour = engines(shared)
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: victim not in engines(shared) and len(engines(shared)) == 2 and in_space(shared), BACK_S_MAX)
    assert neighbour in engines(shared)
    assert in_space(shared)


def test_a_second_daemon_is_not_started_and_space_may_be_demanded(shared: HostProcess, tmp_path: Path) -> None:
    path, environment = write_config(tmp_path, "space"), install(tmp_path)
    with up(path, stderr=PIPE, **environment) as host:
        with pytest.raises(AssertionError, match=r"`space`, but gpu0 cannot .*: another MPS daemon of this user runs"):
            host.ready()
        assert host.process.wait(30) == 1


def test_without_the_program_the_host_says_why_and_starts(tmp_path: Path) -> None:
    environment = install(tmp_path)
    (tmp_path / CONTROL).unlink()
    with up(write_config(tmp_path, "auto"), stderr=PIPE, **environment) as host:
        words = host.await_event("notice")["words"]
        assert words.startswith(f"Engines take turns on gpu0: {CONTROL} is not installed")
        assert "model smollm2-kv8" in host.await_event("starting")["waiting_for"]
