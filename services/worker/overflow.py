"""`python -m services.worker.overflow CONFIG NAME`: the worker of one provider under `overflow`, until SIGTERM.

It is a worker like any other: chats come through its ready stream, replies and usage go the same way, and a chat that
it cannot finish ends with an error.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path

import structlog

from services.config.host_secrets import SecretsError
from services.config.schema import ConfigError
from services.contracts.engines import provider_model
from services.engines.overflow import OverflowEngine
from services.process.logs import setup
from services.store.connection import QueueUnavailable
from services.store.runtime import PATIENCE_S, Runtime, open_runtime
from services.store.work import WorkConsumer
from services.worker.engine_supervisor import EngineGone
from services.worker.worker import Worker

log = structlog.get_logger()


async def serve(runtime: Runtime, name: str) -> None:
    """Run the provider's worker until SIGTERM. Raises EngineGone, QueueUnavailable."""
    settings = runtime.config.overflow[name]
    provider = provider_model(name)
    async with runtime.connect(PATIENCE_S) as connection:
        worker = Worker(
            provider,
            OverflowEngine(name, settings),
            None,
            WorkConsumer(connection, provider, consumer=f"{provider}@0", served_by=settings.model),
            reply_keep_s=runtime.config.gateway.reply_keep_s,
            drain_s=runtime.config.gateway.drain_s,
            clock=time.time,
            price=settings.price,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, worker.stop)
        await worker.run()


def main() -> int:
    """Exit status 1 when the provider cannot be served, 2 when the configuration is wrong."""
    config_path, name = Path(sys.argv[1]), sys.argv[2]
    setup(f"overflow:{name}")
    try:
        runtime = open_runtime(config_path)
        if name not in runtime.config.overflow:
            raise ConfigError(f"{config_path}: there is no provider {name!r} under `overflow`")
        asyncio.run(serve(runtime, name))
    except (ConfigError, SecretsError) as error:
        log.error("overflow.cannot_start", provider=name, why=str(error))
        return 2
    except (EngineGone, QueueUnavailable) as error:
        log.error("overflow.ended", provider=name, why=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
