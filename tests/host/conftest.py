"""One host on the laptop example, for the tests that leave it whole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.host import LAPTOP, HostProcess, run_host


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    """Started once; each test leaves it as it was."""
    with run_host(tmp_path_factory.mktemp("host"), LAPTOP) as running:
        yield running
