"""A Redis of the test's own, which it may fill up, slow down or stop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.harness.scene import own_redis


@pytest.fixture
def redis_port(tmp_path: Path) -> Iterator[int]:
    """Its port on loopback."""
    with own_redis(tmp_path / "redis") as (_, port):
        yield port
