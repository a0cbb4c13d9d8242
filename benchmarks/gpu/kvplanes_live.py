"""Demote 32 live sessions in a real SGLang server on a GPU, and look at what their readers see.

    python -m benchmarks.gpu.kvplanes_live MODEL_FOLDER docs/benchmarks/kvplanes-live.json

32 requests of 4,096 tokens decode at 8 bits; all are demoted through the control socket, promoted, and demoted again.
Reported: how long each answer took, bytes freed, the gaps between tokens before and after, the longest gap around each
command, failures. The first demotion is the first that the server ever sees.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from benchmarks.output import write
from services.devices.telemetry import GpuSource
from services.engines.kvplanes_site import plugin_environment
from services.kvplanes.config import KVPlanesConfig
from services.kvplanes.control import ControlClient
from services.kvplanes.keys import extra_key

SESSIONS, CONTEXT, ANSWER = 32, 4096, 600
STEPS = (("demote", 100), ("promote", 250), ("demote", 400))  # command, tokens that the slowest session has by then
QUIET = 20  # tokens before a command, and after it, that belong to it
START_S_MAX = 300.0  # a machine without compiled kernels takes two minutes
STOP_S_MAX = 20.0
SCRATCH, LOG, PORT = Path("/tmp/kvplanes-live"), "live.log", 31700
LOG_LINES = 50  # of the server's, shown when something fails
GOES_ON = '"finish_reason":null'  # in every event but the last


def launch(model: str, scratch: Path, port: int) -> subprocess.Popen[bytes]:
    """A server with the plugin on."""
    config = KVPlanesConfig(bits=8, control=str(scratch / "control.sock"))
    command = [sys.executable, "-m", "sglang.launch_server", "--model-path", model, "--load-format", "dummy"]
    command += ["--attention-backend", "triton", "--cuda-graph-backend-prefill=disabled", "--skip-tokenizer-init"]
    command += ["--cuda-graph-max-bs", str(SESSIONS), "--max-running-requests", str(SESSIONS), "--port", str(port)]
    command += ["--sampling-backend", "pytorch", "--grammar-backend", "none", "--context-length", "8192"]
    command += ["--incremental-streaming-output"]  # else each event holds the whole answer so far
    command += ["--max-total-tokens", str(2 * SESSIONS * (CONTEXT + ANSWER + 600)), "--chunked-prefill-size", "8192"]
    environment = plugin_environment(config, scratch / "site", os.environ)
    with (scratch / LOG).open("wb") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


async def session(client: httpx.AsyncClient, index: int, times: list[float], rid: str = "session") -> str:
    """Stream one answer, noting when each piece came; returns how it ended."""
    body = {
        "input_ids": [random.randrange(10_000) for _ in range(CONTEXT)],
        "sampling_params": {"temperature": 0, "max_new_tokens": ANSWER, "ignore_eos": True},
        "extra_key": extra_key(f"tenant{index % 4}", 8),
        "rid": f"{rid}-{index}",
        "stream": True,
    }
    end = "nothing came"
    async with client.stream("POST", "/generate", json=body, timeout=120) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                times.append(time.perf_counter())
                if GOES_ON not in line:
                    reason = json.loads(line[6:]).get("meta_info", {}).get("finish_reason")
                    end = reason["type"] if reason else line
    return end


async def measure(server: subprocess.Popen[bytes], port: int, control: ControlClient) -> dict[str, object]:
    """Run the sessions and demote them."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        await ready(client, server)
        await session(client, 0, [], "first")
        streams: list[list[float]] = [[] for _ in range(SESSIONS)]
        tasks = [asyncio.create_task(session(client, index, times)) for index, times in enumerate(streams)]
        said: list[dict[str, object]] = []
        marks: list[tuple[float, float]] = []
        for command, at in STEPS:
            while min(map(len, streams)) < at:
                if any(task.done() for task in tasks):
                    raise SystemExit(f"a session ended early: {[task for task in tasks if task.done()]}")
                await asyncio.sleep(0.02)
            tic = time.perf_counter()
            answer = await (control.demote() if command == "demote" else control.promote())
            toc = time.perf_counter()
            marks.append((tic, toc))
            said.append({"command": command, "took_ms": round((toc - tic) * 1e3, 2), "answer": answer})
        report = await control.report()
        ends = await asyncio.gather(*tasks)
    for entry, (tic, toc) in zip(said, marks, strict=True):
        entry["gap_ms"] = {name: summed(found) for name, found in gaps(streams, tic, toc).items()}
    return {"commands": said, "report": report, "ends": {end: ends.count(end) for end in set(ends)}}


def gaps(streams: list[list[float]], tic: float, toc: float) -> dict[str, list[float]]:
    """Milliseconds between tokens: before a command that ran from `tic` to `toc`, around it, and after it."""
    found: dict[str, list[float]] = {"before": [], "around": [], "after": []}
    for times in streams:
        first = next(index for index, when in enumerate(times) if when >= tic)
        last = next(index for index, when in enumerate(times) if when > toc)
        for name, start, stop in (
            ("before", first - QUIET, first - 1),
            ("around", first - 1, last + 2),
            ("after", last + 2, last + QUIET),
        ):
            found[name] += [(late - early) * 1e3 for early, late in itertools.pairwise(times[start : stop + 1])]
    return found


def summed(found: list[float]) -> dict[str, float]:
    """Median and longest."""
    return {"median": round(sorted(found)[len(found) // 2], 2), "longest": round(max(found), 2)}


async def ready(client: httpx.AsyncClient, server: subprocess.Popen[bytes]) -> None:
    """Wait until the server answers; raise SystemExit when it ends, or takes too long."""
    deadline = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise SystemExit(f"the server ended with {server.returncode} before it answered")
        try:
            if (await client.get("/health", timeout=2)).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        await asyncio.sleep(0.25)
    raise SystemExit(f"the server did not answer in {START_S_MAX:g} s")


def stop(server: subprocess.Popen[bytes]) -> None:
    """End the server, and all that it started where it takes too long."""
    server.terminate()
    try:
        server.wait(timeout=STOP_S_MAX)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def main() -> None:
    """Command line."""
    model, out = sys.argv[1], Path(sys.argv[2])
    SCRATCH.mkdir(exist_ok=True)
    server = launch(model, SCRATCH, PORT)
    try:
        reading = GpuSource().read()
        figures = asyncio.run(measure(server, PORT, ControlClient(str(SCRATCH / "control.sock"))))
        write(out, {"gpu": reading.name if reading else None, "model": Path(model).name, **figures})
    except BaseException:
        print(*(SCRATCH / LOG).read_text(errors="replace").splitlines()[-LOG_LINES:], sep="\n", flush=True)
        raise
    finally:
        stop(server)


if __name__ == "__main__":
    main()
