"""The run's host on the laptop example, for the tests that leave it whole."""

from __future__ import annotations

import pytest

from benchmarks.host import HostProcess


@pytest.fixture
def host(laptop_host: HostProcess) -> HostProcess:
    return laptop_host
