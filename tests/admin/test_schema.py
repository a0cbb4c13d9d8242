"""Schemathesis over the admin API's OpenAPI document: no 500, and answers are what the document says.

The server runs in a thread of its own: Redis's connections belong to one event loop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
import uvicorn
from hypothesis import settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from gateway.admin.router import V1, admin_app, application
from gateway.main import listening
from gateway.prompt import Prompts
from gateway.state import Gateway
from scheduler.loop import Loop
from scheduler.settings import SchedulerSettings
from services.store.connection import connect
from services.store.registry import seeded
from services.store.registry_edit import read_registry, write_registry
from services.store.scheduling import SchedulerStore
from tests.admin.conftest import ADMIN_KEY, CONFIG, PEPPER, SECRETS
from tests.fuzzing import UNSHRUNK

EXAMPLES = 8  # of each endpoint
START_S_MAX = 20.0
CHECKS = [not_a_server_error, response_schema_conformance, status_code_conformance]


class Serving(threading.Thread):
    """The admin API on a real port."""

    def __init__(self, redis_url: str) -> None:
        super().__init__(daemon=True)
        self.listener = listening("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.server: uvicorn.Server | None = None
        self._redis_url = redis_url

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        async with connect(self._redis_url) as connection:
            registry = seeded(await read_registry(connection), CONFIG, PEPPER, time.time())
            await write_registry(connection, 0, registry)
            gateway = Gateway(CONFIG, SECRETS, connection, Prompts({}))
            await gateway.directory.reload()
            config = uvicorn.Config(admin_app(gateway), lifespan="off", log_config=None, access_log=False)
            loop = Loop(SchedulerStore(connection), SchedulerSettings, name="test", clock=time.time)
            scheduling = asyncio.create_task(loop.run())
            self.server = uvicorn.Server(config)
            await self.server.serve([self.listener])
            scheduling.cancel()
            await asyncio.gather(scheduling, return_exceptions=True)


@pytest.fixture(scope="module")
def serving(redis_server: str) -> Iterator[Serving]:
    thread = Serving(redis_server)
    thread.start()
    until_s = time.monotonic() + START_S_MAX
    while thread.server is None or not thread.server.started:
        assert time.monotonic() < until_s
        time.sleep(0.02)
    yield thread
    thread.server.should_exit = True
    thread.join(10)
    thread.listener.close()


schema = schemathesis.openapi.from_dict(application().openapi())


@schema.parametrize()
@settings(UNSHRUNK, max_examples=EXAMPLES)
def test_no_endpoint_answers_500(case: schemathesis.Case[Any], serving: Serving) -> None:
    answer = case.call(base_url=serving.url, headers={"authorization": f"Bearer {ADMIN_KEY}"})
    case.validate_response(answer, checks=CHECKS)


def test_the_document_is_complete() -> None:
    paths = application().openapi()["paths"]
    operations = [operation for methods in paths.values() for operation in methods.values()]
    assert all(path.startswith(V1) for path in paths)
    assert all(operation.get("summary") and operation.get("description") for operation in operations)
    assert all({"401", "403"} <= set(operation["responses"]) for operation in operations)
    bodies = [operation["requestBody"] for operation in operations if "requestBody" in operation]
    assert len(bodies) >= 9
