"""Why a machine cannot share its GPU in space, in one line each."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from services.devices import mps


class Process:
    """A daemon that runs, of some user."""

    pid = 77

    def __init__(self, uid: int, pipe: str | None) -> None:
        self._uid, self._pipe = uid, pipe

    def uids(self) -> SimpleNamespace:
        return SimpleNamespace(real=self._uid)

    def environ(self) -> dict[str, str]:
        return {mps.PIPE_VARIABLE: self._pipe} if self._pipe else {}


@pytest.fixture
def pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / mps.CONTROL
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(mps, "_running", lambda name: [])
    return tmp_path / "pipe"


def test_nothing_speaks_against_it(pipe: Path) -> None:
    assert mps.why_not(0, pipe, "Linux version 6.8") is None


def test_no_program(pipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "is not installed" in (mps.why_not(0, pipe) or "")


def test_wsl(pipe: Path) -> None:
    assert mps.why_not(0, pipe, "Linux version 5.15-microsoft-standard-WSL2") == "MPS does not run under WSL"


def test_mig(pipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMigMode", lambda gpu: (pynvml.NVML_DEVICE_MIG_ENABLE, 1))
    assert mps.why_not(3, pipe) == "GPU 3 is in MIG mode"


@pytest.mark.parametrize(
    ("uid", "folder", "why"),
    [
        (os.getuid() + 1, None, "another user's MPS daemon runs (user"),
        (os.getuid(), None, "another MPS daemon of this user runs (process 77)"),
        (os.getuid(), "/other", "another MPS daemon of this user runs (process 77)"),
    ],
)
def test_a_daemon_of_somebody_else(
    pipe: Path, monkeypatch: pytest.MonkeyPatch, uid: int, folder: str | None, why: str
) -> None:
    monkeypatch.setattr(mps, "_running", lambda name: [Process(uid, folder)])
    assert (mps.why_not(0, pipe) or "").startswith(why)


def test_ones_own_daemon_of_an_earlier_run_is_no_reason(pipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mps, "_running", lambda name: [Process(os.getuid(), str(pipe))])
    assert mps.why_not(0, pipe) is None
