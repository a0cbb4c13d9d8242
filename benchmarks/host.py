"""A whole host as an operator starts it, `bunkhouse up` in processes of its own, for tests and benchmarks."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).parents[1]
LAPTOP = ROOT / "examples" / "laptop.yaml"
START_S_MAX = 60.0


@dataclass
class HostProcess:
    """A running host."""

    process: subprocess.Popen[str]
    url: str
    keys: dict[str, str]
    data_dir: Path
    took_s: float

    def find(self, module: str, word: str = "") -> psutil.Process:
        """The child that runs `python -m module ... word ...`."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                command = child.cmdline()
            except psutil.Error:
                continue
            if module in command and any(word in part for part in command):
                return child
        raise AssertionError(f"no process runs {module} {word}")

    def kill(self, module: str, word: str = "") -> None:
        """kill -9 one of its processes and wait until it is gone."""
        victim = self.find(module, word)
        victim.kill()
        psutil.wait_procs([victim], timeout=5)

    def headers(self, tenant: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.keys[tenant]}"}

    def await_ready(self, timeout_s: float = START_S_MAX) -> None:
        until_s = time.monotonic() + timeout_s
        while True:
            try:
                if httpx.get(f"{self.url}/ready", timeout=2).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            assert time.monotonic() < until_s, "the host is not ready"
            time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def run_host(data_dir: Path, config: Path, start_s_max: float = START_S_MAX, **overrides: str) -> Iterator[HostProcess]:
    """Start a host, wait until it says that it is up, stop it with SIGTERM at the end."""
    environment = os.environ | {
        "BUNKHOUSE__DATA_DIR": str(data_dir),
        "BUNKHOUSE__GATEWAY__PORT": str(free_port()),
        **overrides,
    }
    command = [sys.executable, "-c", "from services.cli import main; main()", "up", str(config), "--json"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            host = _await_up(process, data_dir)
            host.await_ready(start_s_max)
            yield host
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def _await_up(process: subprocess.Popen[str], data_dir: Path) -> HostProcess:
    assert process.stdout is not None
    for line in process.stdout:
        said = json.loads(line)
        if said.get("event") == "ready":
            return HostProcess(process, said["url"], said["keys"], data_dir, said["took_s"])
    logs = "\n".join(path.read_text()[-2000:] for path in (data_dir / "logs").glob("*"))
    raise AssertionError(f"the host ended before it was up: status {process.wait()}\n{logs}")
