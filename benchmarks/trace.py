"""Which modules one real chat executes, from the request's arrival to its settlement, in every process of a host.

A folder that is put on the children's PYTHONPATH holds a `sitecustomize` module (`HOOK`), which Python imports at its
start: the product knows nothing of it. The hook counts the calls of each function while the byte of a shared file names
a window. A host also works without chats (heartbeats, snapshots), so windows of the same length without a chat are
counted for comparison. A function belongs to a chat's way if each of the `CHATS` adds at least one call to those: loops
that run anyway (heartbeats, reports, snapshots, sweeps) fall out. What is left is listed with its number of functions,
since a module with one function there is most often a value that is made or looked up on the way. Both numbers are
printed; the figure counts every module.
"""

from __future__ import annotations

import json
import mmap
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import yaml

from tests.host_process import LAPTOP, HostProcess, run_host

PREFIXES = ("gateway", "scheduler", "services")
CHATS = 6
IDLE_WINDOWS = 2
SETTLE_S = 0.5  # a chat is settled, and its usage counted, within milliseconds of its last token
WRITTEN_S_MAX = 5.0
HOOK = """
import collections, json, mmap, os, sys, threading, time
folder = os.path.dirname(__file__)
with open(os.path.join(folder, "window"), "r+b") as file:
    window = mmap.mmap(file.fileno(), 1)
counts = collections.defaultdict(collections.Counter)

def count(frame, event, argument):
    if window[0] and event == "call":
        module = frame.f_globals.get("__name__") or ""
        if module == "__main__":  # python -m gateway
            module = getattr(frame.f_globals.get("__spec__"), "name", "")
        if module.startswith(PREFIXES):
            counts[window[0]][module + ":" + frame.f_code.co_qualname] += 1

def write():
    open(os.path.join(folder, f"{os.getpid()}.pid"), "w").close()
    last = 0
    while True:
        time.sleep(0.02)
        if window[0] != last:
            time.sleep(0.02)
            if last:
                path = os.path.join(folder, f"{os.getpid()}-{last}.json")
                with open(path + ".part", "w") as file:
                    json.dump(counts[last], file)
                os.rename(path + ".part", path)
            last = window[0]

threading.setprofile(count)
sys.setprofile(count)
threading.Thread(target=write, daemon=True).start()
"""


class Trace:
    """The shared byte, and what the processes wrote about each window."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "window").write_bytes(b"\0")
        (folder / "sitecustomize.py").write_text(f"PREFIXES = {PREFIXES}\n{HOOK}")
        self._last = 0
        with (folder / "window").open("r+b") as file:
            self._window = mmap.mmap(file.fileno(), 1)

    @contextmanager
    def window(self) -> Iterator[int]:
        self._last += 1
        self._window[0] = self._last
        yield self._last
        self._window[0] = 0

    def calls(self, window: int) -> Counter[str]:
        """`module:function` -> calls, over all processes, once each that lives has written its own."""
        processes = [path.stem for path in self.folder.glob("*.pid") if psutil.pid_exists(int(path.stem))]
        files = [self.folder / f"{process}-{window}.json" for process in processes]
        until_s = time.monotonic() + WRITTEN_S_MAX
        while missing := [path.stem for path in files if not path.exists()]:
            assert time.monotonic() < until_s, f"no calls from {missing}"
            time.sleep(0.02)
        return sum((Counter(json.loads(path.read_text())) for path in files), Counter())


def _ask(host: HostProcess) -> None:
    """One streamed chat, as a client of OpenAI's API asks it, read to its end."""
    body = {
        "model": "acme/support",
        "stream": True,
        "max_tokens": 24,
        "messages": [{"role": "user", "content": "Hello!"}],
    }
    with httpx.stream(
        "POST", f"{host.url}/v1/chat/completions", json=body, headers=host.headers("acme"), timeout=60
    ) as answer:
        assert answer.status_code == 200, answer.read()
        assert "data: [DONE]" in list(answer.iter_lines())
    time.sleep(SETTLE_S)


def _small_host(path: Path) -> Path:
    """The laptop's example with one model and one tenant."""
    config = yaml.safe_load(LAPTOP.read_text())
    config["tenants"] = {"acme": config["tenants"]["acme"]}
    bot = config["tenants"]["acme"]["bots"]["support"]
    config["models"] = {bot["model"]: config["models"][bot["model"]]}
    path.write_text(yaml.safe_dump(config))
    return path


def chat_path_files() -> list[str]:
    """The modules of gateway, scheduler and services that a chat's way executes, sorted, each with its functions."""
    with tempfile.TemporaryDirectory(prefix="bh-trace-") as name:
        folder = Path(name)
        trace = Trace(folder)
        with run_host(folder / "data", _small_host(folder / "one.yaml"), PYTHONPATH=name) as host:
            _ask(host)  # the first one loads and caches
            began = time.monotonic()
            with trace.window() as window:
                for _ in range(CHATS):
                    _ask(host)
            length_s = time.monotonic() - began
            calls = trace.calls(window)
            idle: Counter[str] = Counter()
            for _ in range(IDLE_WINDOWS):
                with trace.window() as window:
                    time.sleep(length_s)
                idle |= trace.calls(window)
    on_way = sorted(function for function in calls if calls[function] - idle[function] >= CHATS)
    functions = Counter(function.partition(":")[0] for function in on_way)
    values = sum(number == 1 for number in functions.values())
    print(f"{len(functions)} modules on a chat's way, {values} of them with one function there")
    return [f"{module}: {number} function{'s' if number > 1 else ''}" for module, number in functions.items()]
