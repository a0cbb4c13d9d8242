"""One engine of each kind for the whole run, started once."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from .kits import Kit, Running, llamacpp_kit, sglang_kit

SGLANG = pytest.param("sglang", marks=[pytest.mark.sglang, pytest.mark.timeout(600)])


@pytest.fixture(scope="session", params=["llamacpp", SGLANG])
def kit(request: pytest.FixtureRequest) -> Kit:
    """How to build and ask one kind of engine."""
    return llamacpp_kit() if request.param == "llamacpp" else sglang_kit()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def running(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """A started engine that all tests of its kind share, in the order of their files."""
    engine = kit.build(tmp_path_factory.mktemp(kit.name) / "engine.log", kit.weights, 0)
    progress: list[str] = []
    try:
        facts = await engine.start(progress.append)
        yield Running(engine, facts, progress)
    finally:
        await engine.stop()
