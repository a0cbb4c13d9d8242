"""The run's host on the laptop example, for the tests that leave it whole."""

from __future__ import annotations

import pytest

from tests.host_process import HostProcess


@pytest.fixture
def host(laptop_host: HostProcess) -> HostProcess:
    return laptop_host
