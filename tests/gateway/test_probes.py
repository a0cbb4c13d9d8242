"""/health, /ready, /metrics."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from services.store import redis_keys as keys

from .conftest import ACME, Host, HostFactory
from .driver import Script, until
from .test_bad_input import GOOD, error_of


async def test_ready_says_what_is_missing(host: Host) -> None:
    url = f"{host.url}/ready"
    assert (await host.http.get(f"{host.url}/health")).json() == {"status": "ok"}
    answer = await host.http.get(url)
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "missing": [], "models": {"small": "ready"}})
    host.state.clock = lambda: time.time() + 7200
    answer = await host.http.get(url)
    assert (answer.status_code, answer.json()["models"]) == (503, {"small": "silent"})
    host.state.clock = time.time
    await host.connection.redis.delete(keys.SNAPSHOT)
    assert (await host.http.get(url)).json()["missing"] == ["scheduler"]
    await host.connection.redis.delete(keys.ENGINES)
    answer = await host.http.get(url)
    assert (answer.status_code, answer.json()["missing"]) == (503, ["scheduler", "models"])
    host.state.draining = True
    assert (await host.http.get(url)).json()["missing"] == ["draining"]


async def test_metrics_name_no_tenant_unless_that_is_configured(host: Host) -> None:
    host.driver.script_for = lambda _: Script(ignore=True)
    waiting = asyncio.create_task(host.ask(GOOD))
    await until(lambda: host.driver.tickets)
    host.driver.script_for = lambda _: Script()
    await host.ask(GOOD)
    text = (await host.http.get(f"{host.url}/metrics")).text
    assert 'gen_ai_request_model="small"' in text
    assert "acme" not in text
    waiting.cancel()


async def test_metrics_need_a_key_from_elsewhere(hosts: HostFactory, tmp_path: Path) -> None:
    key_file = tmp_path / "metrics-key"
    key_file.write_text("a-key-of-the-scraper\n")
    async with hosts(metrics_key_file=key_file) as host:
        url = f"{host.url}/metrics"
        assert (await host.http.get(url)).status_code == 200, "from this machine"
        elsewhere = {"x-forwarded-for": "203.0.113.9"}
        error_of(await host.http.get(url, headers=elsewhere), 401, "invalid_api_key")
        for key, status in (("wrong", 401), (ACME, 401), ("a-key-of-the-scraper", 200)):
            headers = elsewhere | {"authorization": f"Bearer {key}"}
            assert (await host.http.get(url, headers=headers)).status_code == status


async def test_metrics(hosts: HostFactory) -> None:
    async with hosts(metrics_per_tenant=True) as host:
        await _check_metrics(host)


async def _check_metrics(host: Host) -> None:
    await host.ask(GOOD)
    await host.ask({**GOOD, "stream": True})
    await host.ask({**GOOD, "audio": 2})
    await host.http.get(f"{host.url}/nothing?key={ACME}")
    answer = await host.http.get(f"{host.url}/metrics")
    found = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    route = ("route", "/v1/chat/completions")
    asked = "bunkhouse_gateway_requests_total"
    assert found[asked, (("outcome", "ok"), route, ("status", "200"))] == 2
    assert found[asked, (("outcome", "unsupported_parameter"), route, ("status", "400"))] == 1
    assert found[asked, (("outcome", "not_found"), ("route", "other"), ("status", "404"))] == 1
    bot = ("gen_ai_request_model", "acme/support")
    assert found["gen_ai_server_request_duration_seconds_count", (("error_type", ""), bot)] == 2
    assert found["gen_ai_server_time_to_first_token_seconds_count", (bot,)] == 2
    assert found["gen_ai_server_time_per_output_token_seconds_count", (bot,)] == 2
    assert found["gen_ai_client_token_usage_sum", (bot, ("gen_ai_token_type", "output"))] == 8
    assert ACME not in answer.text
    assert "chatcmpl" not in answer.text
