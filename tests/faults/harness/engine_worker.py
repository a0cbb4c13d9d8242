"""`python -m tests.faults.harness.engine_worker CONFIG MODEL BEHAVIOUR`: the real worker, its engine behind a proxy.

The file BEHAVIOUR says what the proxy does: well, hang (nothing comes back), garbage, busy (503 to whoever asks).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from pathlib import Path

import uvloop

from services.contracts.engines import EngineFacts
from services.engines.base import Progress
from services.engines.http import EngineHttp
from services.engines.llamacpp import LlamaCppEngine, LlamaCppOptions
from services.model_files.weights import resolve
from services.process.logs import setup
from services.store.runtime import open_runtime
from services.store.work import WorkConsumer
from services.tokenizer.tokenizer import load_tokenizer
from services.worker.worker import Worker
from tests.faults.harness.proxy import Proxy

LOOK_S = 0.05
TOKEN_S_MAX = 3.0  # so that a hang is noticed within a test
BUSY = b'HTTP/1.1 503 Service Unavailable\r\ncontent-length: 33\r\n\r\n{"error":{"message":"no room"}}\r\n'


class Proxied(LlamaCppEngine):
    """The llama.cpp engine, reached through a proxy."""

    proxy: Proxy
    engine_port = 0

    async def start(self, progress: Progress) -> EngineFacts:
        facts = await super().start(progress)
        assert self._http is not None
        self.engine_port = self._http.port
        key = self._http._headers.split("Bearer ")[1].split("\r\n")[0]
        self._http = EngineHttp("127.0.0.1", self.proxy.port, key)
        return facts


async def follow_file(proxy: Proxy, behaviour_file: Path) -> None:
    """Do what the file says, until cancelled."""
    was = "well"
    while True:
        await asyncio.sleep(LOOK_S)
        behaviour = await asyncio.to_thread(behaviour_file.read_text)
        if behaviour == was:
            continue
        was = behaviour
        proxy.answers = {"garbage": _garbage, "busy": _busy}.get(behaviour)
        if behaviour == "hang":
            proxy.stop()
        else:
            proxy.go_on()


def _garbage(chunk: bytes) -> bytes:
    """Whole HTTP with broken JSON in it: an engine that calls itself healthy."""
    return chunk.replace(b'{"', b'}"')


def _busy(_: bytes) -> bytes:
    return BUSY


async def main(config: Path, model: str, behaviour_file: Path) -> None:
    """Serve until SIGTERM."""
    runtime = open_runtime(config)
    settings = runtime.config.models[model]
    weights = resolve(settings.weights)
    options = LlamaCppOptions(
        weights,
        runtime.config.data_dir / "logs" / "engine.log",
        context_tokens=settings.context_tokens,
        chats_max=settings.chats_max,
        token_s_max=TOKEN_S_MAX,
        first_token_s_max=20.0,
    )
    engine = Proxied(model, options)
    async with Proxy(lambda: engine.engine_port).running() as proxy, runtime.connect() as connection:
        engine.proxy = proxy
        bench = WorkConsumer(connection, model, f"{model}@0")
        worker = Worker(model, engine, load_tokenizer(weights), bench, reply_keep_s=7200, drain_s=2, clock=time.time)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
        following = asyncio.create_task(follow_file(proxy, behaviour_file))
        try:
            await worker.run()
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following


if __name__ == "__main__":
    setup("worker")
    uvloop.run(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))
