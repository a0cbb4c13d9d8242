"""A whole host, as `bunkhouse up` runs it: KV bits change through the admin API while twenty clients chat."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.gateway.driver import until
from tests.host_process import HostProcess, command, up, write_config

CHATS = 20
JOB_S_MAX = 100.0
SCENARIO = """
name: a few chats
duration_s: 3
drain_s: 30
tenants:
  - name: acme
    model: acme/support
    arrivals: {kind: closed, users: 2}
    max_tokens: 4
"""


class Client:
    """An operator and a tenant of one host."""

    def __init__(self, up: HostProcess, told: dict[str, Any], folder: Path) -> None:
        secrets = json.loads((folder / "secrets.json").read_text())
        self.admin = httpx.AsyncClient(
            base_url=f"{told['url']}/admin/v1", headers={"authorization": f"Bearer {secrets['admin_key']}"}, timeout=30
        )
        self.last_chat = ""
        self.texts = 0  # events of all chats so far
        key = told["keys"]["acme"]
        self.tenant = httpx.AsyncClient(
            base_url=f"{told['url']}/v1", headers={"authorization": f"Bearer {key}"}, timeout=120
        )

    async def chat(self, number: int, tokens: int) -> dict[str, Any]:
        """One streamed chat; its usage. Fails the test on any error."""
        body = {
            "model": "acme/support",
            "messages": [{"role": "user", "content": f"Tell me about the number {number}."}],
            "max_tokens": tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        usage: dict[str, Any] = {}
        async with self.tenant.stream("POST", "/chat/completions", json=body) as answer:
            self.last_chat = answer.headers["x-bunkhouse-chat"]
            assert answer.status_code == 200, await answer.aread()
            async for line in answer.aiter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                event = orjson.loads(line.removeprefix("data: "))
                assert "error" not in event, event
                usage = event.get("usage") or usage
                self.texts += 1
        return usage

    async def ask(self, method: str, path: str, body: object = None, **query: str) -> Any:
        answer = await self.admin.request(method, path, json=body, params=query)
        assert answer.is_success, answer.text
        return answer.json()

    async def job_done(self, job: str) -> dict[str, Any]:
        async with asyncio.timeout(JOB_S_MAX):
            while True:
                found: dict[str, Any] = await self.ask("GET", f"/jobs/{job}")
                if found["state"] not in ("queued", "running"):
                    return found
                await asyncio.sleep(0.2)

    async def change(self, bits: int) -> None:
        answer = await self.ask("PUT", "/models/small/kv", {"bits": bits})
        done = await self.job_done(answer["job"]["id"])
        assert (done["state"], done["result"]["kv_bits"]) == ("succeeded", bits), done


@pytest.mark.timeout(240)
async def test_twenty_clients_chat_while_kv_bits_go_16_4_8(tmp_path: Path) -> None:
    data_dir = tmp_path / ".bunkhouse"
    with up(write_config(tmp_path)) as host:
        client = Client(host, await asyncio.to_thread(host.ready), data_dir)
        await client.change(16)
        chats = [asyncio.create_task(client.chat(number, 12)) for number in range(CHATS)]
        for bits in (4, 8):
            await client.change(bits)
        used = await asyncio.gather(*chats)
        total = (await client.ask("GET", "/usage"))["total"]
        assert total["chats"] == CHATS
        assert total["refused"] == {}
        for name in ("prompt_tokens", "completion_tokens"):
            assert total[name] == sum(usage[name] for usage in used)
        assert (await client.ask("GET", "/models/small"))["kv_bits"] == 8
        job = await client.ask("POST", "/jobs", {"kind": "loadtest", "args": {"scenario": SCENARIO}})
        done = await client.job_done(job["id"])
        assert done["state"] == "succeeded", done
        results = done["result"]["figures"]["total"]["results"]
        assert set(results) == {"ok"}, results
        keys = await client.ask("GET", "/tenants/acme/keys")
        assert [key["id"] for key in keys["items"]] == ["acme-ready"]
        entry = (await client.ask("GET", "/audit", limit="1"))["items"][0]
        assert (entry["action"], entry["who"]) == ("key.revoke", "owner")
        begun = (await client.ask("GET", "/audit"))["items"][-1]
        assert (begun["action"], begun["request"][:4]) == ("model.kv", "req-")
        told = await asyncio.to_thread(command, host.config, "explain", client.last_chat, "--config", str(host.config))
        assert (told.returncode, "settled" in told.stdout) == (0, True), told
        await bot_tests(client, host)
        running = [asyncio.create_task(client.chat(number, 40)) for number in range(4)]
        lowered = await client.ask("PATCH", "/tenants/acme", {"limits": {"chats_max": 1}})
        assert lowered["limits"]["chats_max"] == 1
        assert all(usage["completion_tokens"] for usage in await asyncio.gather(*running))
        await client.ask("PATCH", "/tenants/acme", {"limits": {"requests_per_minute": 1}})
        body = {"model": "acme/support", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
        said = [(await client.tenant.post("/chat/completions", json=body)).status_code for _ in range(3)]
        assert said.count(429) >= 1
        total = (await client.ask("GET", "/usage", bot="acme/support"))["total"]
        assert total["refused"] == {"rate_limit_exceeded": said.count(429)}
        await client.ask("PATCH", "/tenants/acme", {"limits": {"requests_per_minute": None, "chats_max": None}})
        last, texts = asyncio.create_task(client.chat(99, 60)), client.texts
        await until(lambda: client.texts > texts)
        assert (await client.admin.delete("/tenants/acme")).status_code == 204
        gone = await client.tenant.post("/chat/completions", json=body)
        assert (gone.status_code, gone.json()["error"]["code"]) == (401, "invalid_api_key")
        assert (await last)["completion_tokens"] > 0
        await client.admin.aclose()
        await client.tenant.aclose()


async def bot_tests(client: Client, host: HostProcess) -> None:
    """A test set by file, command and job, at bits that the model is changed to and back from."""
    file = host.config.with_name("tests.yaml")
    file.write_text("- {ask: [Hello, Who are you], must: /./}\n- {ask: Hi, must: no model says this zzz}\n")
    tests = ("tests", "import", "acme/support", str(file), "--config", str(host.config))
    told = await asyncio.to_thread(command, host.config, *tests)
    assert (told.returncode, told.stdout.strip()) == (0, "acme/support has 2 questions"), told
    before = (await client.ask("GET", "/usage", bot="acme/support"))["total"]["chats"]
    args = {"bot": "acme/support", "bits": [8, 4], "switch": True}
    job = await client.ask("POST", "/jobs", {"kind": "bot_test", "args": args})
    done = await client.job_done(job["id"])
    assert done["state"] == "succeeded", done
    assert done["result"]["right"] == {"8": 1, "4": 1}
    report = await client.ask("GET", f"/jobs/{job['id']}/report")
    verdicts = [each for judged in report["questions"] for each in judged["verdicts"]]
    assert [(each["bits"], each["answer"]["kv_bits"]) for each in verdicts] == [(8, 8), (4, 4)] * 2
    assert verdicts[-1]["wrong"] == ["missing: no model says this zzz"]
    assert (await client.ask("GET", "/models/small"))["kv_bits"] == 8
    rows = {row["bot"]: row["chats"] for row in (await client.ask("GET", "/usage", by="bot"))["rows"]}
    assert rows["acme/support#test"] == 6
    assert (await client.ask("GET", "/usage", bot="acme/support"))["total"]["chats"] == before
