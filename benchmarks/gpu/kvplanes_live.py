"""Demote 32 live sessions in a real SGLang server on a GPU, and look at what their readers see.

    python -m benchmarks.gpu.kvplanes_live MODEL_FOLDER OUT.json

32 requests of 4,096 tokens decode at 8 bits; half way all are demoted through the control socket. Reported: how long
the answer took, bytes freed, the gaps between tokens before and after, the longest gap around the demotion, failures.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import httpx

from services.kvplanes.config import KVPlanesConfig
from services.kvplanes.control import ControlClient
from services.kvplanes.environment import plugin_environment
from services.kvplanes.keys import extra_key

SESSIONS, CONTEXT, ANSWER = 32, 4096, 400
START_S_MAX = 150.0


def launch(model: str, scratch: Path, port: int) -> subprocess.Popen[bytes]:
    """A server with the plugin on."""
    config = KVPlanesConfig(bits=8, control=str(scratch / "control.sock"))
    command = [sys.executable, "-m", "sglang.launch_server", "--model-path", model, "--load-format", "dummy"]
    command += ["--attention-backend", "triton", "--cuda-graph-backend-prefill=disabled", "--skip-tokenizer-init"]
    command += ["--cuda-graph-max-bs", str(SESSIONS), "--max-running-requests", str(SESSIONS), "--port", str(port)]
    command += ["--sampling-backend", "pytorch", "--grammar-backend", "none", "--context-length", "8192"]
    command += ["--max-total-tokens", str(2 * SESSIONS * (CONTEXT + ANSWER + 600)), "--chunked-prefill-size", "8192"]
    environment = plugin_environment(config, scratch / "site", os.environ)
    log = (scratch / "live.log").open("wb")
    return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


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
                reason = json.loads(line[6:]).get("meta_info", {}).get("finish_reason")
                end = reason["type"] if reason else end
    return end


async def measure(port: int, control: ControlClient) -> dict[str, object]:
    """Run the sessions and demote them."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        await ready(client)
        await session(client, 0, [], "first")
        streams: list[list[float]] = [[] for _ in range(SESSIONS)]
        tasks = [asyncio.create_task(session(client, index, times)) for index, times in enumerate(streams)]
        while min(map(len, streams)) < ANSWER // 4:
            if any(task.done() for task in tasks):
                raise SystemExit(f"a session ended early: {[task for task in tasks if task.done()]}")
            await asyncio.sleep(0.02)
        before = await control.report()
        tic = time.perf_counter()
        answer = await control.demote()
        toc = time.perf_counter()
        after = await control.report()
        ends = await asyncio.gather(*tasks)
    settled = max(times[ANSWER // 8] for times in streams)
    gaps: dict[str, list[float]] = {"before": [], "during": [], "after": []}
    for times in streams:
        for first, second in itertools.pairwise(times):
            key = "before" if second < tic else "after" if first > toc else "during"
            if first > settled:
                gaps[key].append((second - first) * 1e3)
    return {
        "demote_ms": round((toc - tic) * 1e3, 2),
        "answer": answer,
        "report_before": before,
        "report_after": after,
        "gap_ms_median": {key: round(sorted(found)[len(found) // 2], 2) for key, found in gaps.items() if found},
        "gap_ms_max": {key: round(max(found), 2) for key, found in gaps.items() if found},
        "ends": {end: ends.count(end) for end in set(ends)},
    }


async def ready(client: httpx.AsyncClient) -> None:
    """Wait until the server answers; raise SystemExit when it takes too long."""
    deadline = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline:
        try:
            if (await client.get("/health", timeout=2)).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        await asyncio.sleep(0.25)
    raise SystemExit("the server did not start")


def main() -> None:
    """Command line."""
    model, out = sys.argv[1], Path(sys.argv[2])
    scratch = Path("/tmp/kvplanes-live")
    scratch.mkdir(exist_ok=True)
    port = 31700
    server = launch(model, scratch, port)
    try:
        figures = asyncio.run(measure(port, ControlClient(str(scratch / "control.sock"))))
        out.write_text(json.dumps(figures, indent=2) + "\n")
        print(json.dumps(figures))
    finally:
        server.terminate()
        server.wait(timeout=20)


if __name__ == "__main__":
    main()
