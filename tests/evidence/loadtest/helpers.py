"""Short ways to run a scenario."""

from __future__ import annotations

import time
from typing import Any

from services.contracts.scenario import Scenario
from services.evidence.loadtest.record import ChatRecord
from services.evidence.loadtest.runner import Runner
from services.evidence.loadtest.stream import CountTokens
from services.http_stream.client import StreamClient


def scenario(url: str, *tenants: dict[str, Any], **settings: Any) -> Scenario:
    """A short scenario; each tenant's missing settings are filled in."""
    usual = {"model": "good", "arrivals": {"kind": "poisson", "sessions_per_s": 40}}
    filled = [{"name": f"t{place}"} | usual | tenant for place, tenant in enumerate(tenants)]
    short = {"name": "test", "url": url, "duration_s": 0.5, "drain_s": 20}
    return Scenario.model_validate(short | settings | {"tenants": filled})


async def run(plan: Scenario, count_tokens: CountTokens | None = None) -> list[ChatRecord]:
    """All records of one run."""
    records: list[ChatRecord] = []
    http = StreamClient(plan.url, time.perf_counter)
    try:
        runner = Runner(plan, http, time.perf_counter, run_id="r1", on_record=records.append, count_tokens=count_tokens)
        await runner.run()
    finally:
        http.close()
    return records
