"""One engine of each kind for the whole module, started once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from .kits import Kit, Running, llamacpp_kit


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "sglang: needs an environment with SGLang 0.5.17; a server takes a minute")


@pytest.fixture(scope="session", params=["llamacpp"])
def kit(request: pytest.FixtureRequest) -> Kit:
    """How to build and ask one kind of engine."""
    return {"llamacpp": llamacpp_kit}[request.param]()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """A started engine that the module's tests share."""
    log_path: Path = tmp_path_factory.mktemp(kit.name) / "engine.log"
    engine = kit.build(log_path, kit.weights, 0)
    progress: list[str] = []
    try:
        facts = await engine.start(progress.append)
        yield Running(engine, facts, progress)
    finally:
        await engine.stop()
