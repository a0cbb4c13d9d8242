"""`python -m benchmarks.gateway.redis_only CONFIG`: the host's Redis with its registry, and nothing else of it."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from services.store.embedded_redis import EmbeddedRedis
from services.store.registry import Registry, seeded
from services.store.registry_edit import write_registry
from services.store.runtime import open_runtime, redis_dir, redis_socket


async def main(path: Path) -> None:
    """Serve until killed."""
    runtime = open_runtime(path)
    config = runtime.config
    folder = redis_dir(config)
    redis = EmbeddedRedis(
        folder, redis_socket(config), runtime.secrets.redis_password, config.data_dir / "logs" / "redis.log"
    )
    await redis.start()
    async with runtime.connect() as connection:
        await write_registry(connection, 0, seeded(Registry(), config, runtime.secrets.pepper, time.time()))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
