"""A host that is full hands chats to another provider, which is a second Bunkhouse reached through LiteLLM."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from scheduler.loop import LOOK_S
from services.config.host_secrets import read_secrets
from tests.host_process import LAPTOP, HostProcess, run_host

pytestmark = pytest.mark.skipif(find_spec("litellm") is None, reason="LiteLLM is not installed: make dev")

USD_PER_MILLION = 100.0
TOKENS = 150


def _small(folder: Path, provider: HostProcess) -> Path:
    """One model with room for one chat; its bots may overflow after a moment. Globex has no money for it."""
    key_file = folder / "provider-key"
    key_file.write_text(provider.keys["acme"])
    config = yaml.safe_load(LAPTOP.read_text())
    config["models"] = {"one": config["models"]["smollm2-kv8"] | {"chats_max": 1, "context_tokens": 512}}
    bot = config["tenants"]["acme"]["bots"]["support"] | {"model": "one", "overflow": "second"}
    config["tenants"] = {
        "acme": {"ready_key": True, "bots": {"support": bot}},
        "globex": {"ready_key": True, "limits": {"overflow_usd_per_month": 0.0}, "bots": {"support": bot}},
    }
    config["scheduler"] = {"overflow_after_s": 0.5}
    config["overflow"] = {
        "second": {
            "model": "openai/acme/support",
            "api_base": f"{provider.url}/v1",
            "api_key_file": str(key_file),
            "usd_per_million_tokens": USD_PER_MILLION,
        }
    }
    path = folder / "host.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def small(laptop_host: HostProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    """The small host. The run's own host is its provider."""
    folder = tmp_path_factory.mktemp("overflow")
    with run_host(folder / "data", _small(folder, laptop_host)) as running:
        yield running


async def _ask(client: httpx.AsyncClient, host: HostProcess, tenant: str, max_tokens: int) -> httpx.Response:
    body: dict[str, Any] = {
        "model": f"{tenant}/support",
        "max_tokens": max_tokens,
        "temperature": 0,  # a long answer, so that the others wait long enough
        "messages": [{"role": "user", "content": "Count from 1 to 60, separated by commas."}],
    }
    return await client.post(f"{host.url}/v1/chat/completions", headers=host.headers(tenant), json=body)


async def _until_provider_runs(client: httpx.AsyncClient, host: HostProcess) -> None:
    async with asyncio.timeout(90):
        while True:
            ready = (await client.get(f"{host.url}/ready")).json()
            if ready["models"].get("overflow:second") == "ready":
                break
            await asyncio.sleep(0.1)
        ready_s = time.time()
        admin = {"authorization": f"Bearer {read_secrets(host.data_dir / 'secrets.json').admin_key}"}
        while True:  # a snapshot a look later: the scheduler has seen it, too
            overview = (await client.get(f"{host.url}/admin/v1/overview", headers=admin)).json()
            if overview["snapshot"]["at_s"] > ready_s + LOOK_S:
                return
            await asyncio.sleep(0.1)


async def _three_at_once(host: HostProcess, tenant: str) -> list[httpx.Response]:
    async with httpx.AsyncClient(timeout=90) as client:
        await _until_provider_runs(client, host)
        return list(await asyncio.gather(*(_ask(client, host, tenant, TOKENS) for _ in range(3))))


async def test_a_full_host_overflows_and_says_so(small: HostProcess) -> None:
    answers = await _three_at_once(small, "acme")
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    served = sorted(answer.headers["x-bunkhouse-served-by"] for answer in answers)
    assert served == ["bunkhouse", "openai/acme/support", "openai/acme/support"]
    for answer in answers:
        here = answer.headers["x-bunkhouse-served-by"] == "bunkhouse"
        assert ("x-bunkhouse-kv-bytes" in answer.headers) == here, "elsewhere it takes none of this host's memory"
        assert answer.json()["choices"][0]["message"]["content"]
        assert 0 < answer.json()["usage"]["completion_tokens"] <= TOKENS


async def test_a_tenant_without_money_waits_instead(small: HostProcess) -> None:
    answers = await _three_at_once(small, "globex")
    assert [answer.headers["x-bunkhouse-served-by"] for answer in answers] == ["bunkhouse"] * 3
