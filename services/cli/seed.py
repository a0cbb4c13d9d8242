"""`bunkhouse seed CONFIG`: what `bunkhouse up` does before its processes start, for those started otherwise."""

from __future__ import annotations

import asyncio
from pathlib import Path

from services.cli.errors import out, reported_errors
from services.config.api_keys import ready_key
from services.host.host import seed
from services.model_files.weights import resolve
from services.store.runtime import Runtime, open_runtime


def run(config_path: Path) -> None:
    """Fetch weights that are named on a hub, write tenants and keys into Redis, and print the ready keys."""
    with reported_errors():
        runtime = open_runtime(config_path)
        for weights in {model.weights for model in runtime.config.models.values()}:
            resolve(weights)
        asyncio.run(_seed(runtime))
    for name, tenant in runtime.config.tenants.items():
        if tenant.ready_key:
            out.print(f"key of {name}: {ready_key(name, runtime.secrets.pepper)}", highlight=False, soft_wrap=True)


async def _seed(runtime: Runtime) -> None:
    async with runtime.connect() as connection:
        await seed(connection, runtime)
