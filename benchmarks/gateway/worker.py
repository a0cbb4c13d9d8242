"""`python -m benchmarks.gateway.worker CONFIG MODEL PORT`: the real worker on an engine that runs elsewhere."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import uvloop

from services.contracts.engines import EngineFacts
from services.engines.base import Progress
from services.engines.http import EngineHttp
from services.engines.llamacpp import LlamaCppEngine, LlamaCppOptions
from services.engines.llamacpp_slots import Slots
from services.model_files.weights import resolve
from services.process import garbage
from services.process.logs import setup
from services.store.runtime import open_runtime
from services.store.work import WorkConsumer
from services.tokenizer.tokenizer import load_tokenizer
from services.worker.worker import Worker


class Elsewhere(LlamaCppEngine):
    """The llama.cpp engine, with a server that somebody else started."""

    port = 0

    async def start(self, progress: Progress) -> EngineFacts:
        self._http = EngineHttp("127.0.0.1", self.port, "none", keep=True)  # as SGLang's server does
        self._slots = Slots(self.options.chats_max)
        self._facts = EngineFacts(
            self.model,
            "llamacpp",
            0,
            0,
            1 << 40,
            {8: 1},
            self.options.context_tokens,
            self.options.chats_max,
            self._bits,
        )
        return self._facts

    def _up(self) -> tuple[EngineHttp, EngineFacts]:
        assert self._http is not None
        assert self._facts is not None
        return self._http, self._facts

    async def alive(self) -> bool:
        return True


async def main(config: Path, model: str, port: int) -> None:
    """Serve until killed."""
    runtime = open_runtime(config)
    settings = runtime.config.models[model]
    weights = resolve(settings.weights)
    engine = Elsewhere(
        model,
        LlamaCppOptions(
            weights, Path("/dev/null"), context_tokens=settings.context_tokens, chats_max=settings.chats_max
        ),
    )
    engine.port = port
    async with runtime.connect() as connection:
        bench = WorkConsumer(connection, model, f"{model}@0")
        worker = Worker(model, engine, load_tokenizer(weights), bench, reply_keep_s=30, drain_s=1, clock=time.time)
        garbage.freeze_heap()
        await worker.run()


if __name__ == "__main__":
    setup("worker", json=True)
    uvloop.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
