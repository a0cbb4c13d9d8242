"""The GPU benchmarks of KV planes, as far as they go without a GPU: dead servers, answers, what earlier runs left."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from benchmarks.gpu import kvplanes, kvplanes_live
from benchmarks.gpu.kvplanes_figures import named
from benchmarks.gpu.kvplanes_runs import RUNS, Job, Run


def start(code: str) -> tuple[subprocess.Popen[bytes], int]:
    """A process in place of a server, and the number that it printed first."""
    command = [sys.executable, "-uc", f"import os, signal, time; {code}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    with process.stdout as lines:
        return process, int(lines.readline())


def test_a_server_that_ends_is_not_waited_for_and_its_last_words_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def launch(_model: str, scratch: Path, _port: int) -> subprocess.Popen[bytes]:
        (scratch / kvplanes_live.LOG).write_text("\n".join(f"line {number}" for number in range(200)))
        return start("print(1); os._exit(3)")[0]

    monkeypatch.setattr(kvplanes_live, "launch", launch)
    monkeypatch.setattr(kvplanes_live, "SCRATCH", tmp_path)
    monkeypatch.setattr(sys, "argv", ["kvplanes_live", "model", str(tmp_path / "out.json")])
    tic = time.monotonic()
    with pytest.raises(SystemExit, match="ended with 3"):
        kvplanes_live.main()
    assert time.monotonic() - tic < 20
    assert capsys.readouterr().out.splitlines() == [f"line {number}" for number in range(150, 200)]
    assert not (tmp_path / "out.json").exists()


def test_a_server_that_does_not_stop_is_killed_with_what_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvplanes_live, "STOP_S_MAX", 0.2)
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    server, child = start(f"{ignore}; child = os.fork(); child and print(child); time.sleep(60)")
    kvplanes_live.stop(server)
    assert server.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 10
    with contextlib.suppress(psutil.NoSuchProcess):
        while psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize(
    ("last", "end"),
    [
        (b'{"meta_info":{"finish_reason":{"type":"length","length":3}}}', "length"),
        (b'{"error":{"message":"gone"}}', 'data: {"error":{"message":"gone"}}'),
    ],
)
async def test_an_answer_is_timed_event_by_event(last: bytes, end: str) -> None:
    event = b'data: {"output_ids":[7],"meta_info":{"finish_reason":null}}\n\n'
    body = 2 * event + b"data: " + last + b"\n\ndata: [DONE]\n\n"
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, content=body))
    times: list[float] = []
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
        assert await kvplanes_live.session(client, 0, times) == end
    assert len(times) == 3


def test_figures_of_an_earlier_run_are_not_taken_for_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RUNS[0]
    (tmp_path / "turn-of").write_text(kvplanes.result_path(run, tmp_path, 0).name)
    kvplanes.result_path(run, tmp_path, 0).write_text('{"decode_32x4096_ms": 1.0}')

    def worker(_run: Run, _models: Path, scratch: Path, _turn: int) -> subprocess.Popen[bytes]:
        assert not (scratch / "turn-of").exists(), "it would not wait its turn"
        return start("print(1); os._exit(1)")[0]

    monkeypatch.setattr(kvplanes, "worker", worker)
    out = tmp_path / "out.json"
    words = ["kvplanes", "--models", str(tmp_path), "--out", str(out), "--scratch", str(tmp_path), "--only", run.name]
    monkeypatch.setattr(sys, "argv", words)
    kvplanes.main()
    assert "decode_32x4096_ms" not in out.read_text()


def test_of_two_runs_the_lesser_milliseconds_count() -> None:
    one, other = {"decode_ms": 2.0, "start_s": 5}, {"decode_ms": 3.0, "start_s": 7}
    assert kvplanes.faster(one, other) == {"decode_ms": 2.0, "start_s": 7}
    assert kvplanes.faster({}, other) == other


def test_a_ratio_is_the_baselines_time_over_ours_and_is_left_out_where_one_is_missing() -> None:
    key = Job(4096).name
    engines = {"qwen2.5-7b-awq kv4": {f"{key}_ms": 5.0}, "qwen2.5-7b-awq flashinfer": {f"{key}_ms": 6.5}}
    assert named({"engines": engines}) == {"vs_flashinfer_4k": 1.3}


def test_a_run_reaches_its_worker_as_it_is() -> None:
    assert all(Run.from_json(run.to_json()) == run for run in RUNS)
    assert sum(Job(4096, ragged=True).lengths()) != 4096 * 32
