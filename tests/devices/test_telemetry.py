"""A machine without NVML says so; a reading's arithmetic."""

from __future__ import annotations

import os
import subprocess
import sys

import pynvml
import pytest

from services.devices.telemetry import GpuReading, GpuSource, process_tree_bytes


def _has_gpu() -> bool:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    return True


@pytest.mark.skipif(_has_gpu(), reason="this machine has a GPU")
def test_no_nvml_says_so_and_gives_no_zeros() -> None:
    source = GpuSource()
    assert not source.available
    assert "NVML" in source.why
    assert source.read() is None


@pytest.mark.skipif(not _has_gpu(), reason="no NVIDIA GPU here")
def test_a_gpu_is_read() -> None:
    source = GpuSource()
    reading = source.read()
    assert reading is not None
    assert 0 < reading.used_bytes < reading.total_bytes
    assert reading.capability is not None
    assert GpuSource(99).why


def test_reading_arithmetic() -> None:
    assert GpuReading("x", 100, 40).free_bytes == 60


def test_memory_of_a_process_tree() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    try:
        reading = GpuReading("x", 100, 40, {child.pid: 7, os.getpid(): 2, 1: 5})
        assert process_tree_bytes(reading, os.getpid()) == 9
        assert process_tree_bytes(reading, child.pid) == 7
        assert process_tree_bytes(GpuReading("x", 100, 40), child.pid) is None
    finally:
        child.kill()
        child.wait()
    assert process_tree_bytes(reading, child.pid) is None
