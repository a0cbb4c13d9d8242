"""`bunkhouse export CONFIG FILE` and `bunkhouse import CONFIG FILE`: what only Redis knows, as a file."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from services.cli.errors import WRONG_INPUT, fail, out, reported_errors
from services.store.backup import Backup, BadBackup, Restored, export, parse, restore
from services.store.registry_edit import TooManyEdits
from services.store.runtime import Runtime, open_runtime


def run_export(config_path: Path, file: Path) -> None:
    """Write the file, for this user only."""
    with reported_errors():
        runtime = open_runtime(config_path)
        backup = asyncio.run(_export(runtime))
    try:
        fresh = file.with_name(f"{file.name}.new")
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(backup.model_dump_json(indent=1))
        fresh.replace(file)
    except OSError as error:
        fail(f"{file}: cannot be written: {error.strerror}")
    counts = _counts(len(backup.registry.tenants), len(backup.admins), len(backup.usage))
    out.print(f"{file}: {counts}. Keep it with secrets.json: keys work with the same secrets only.", highlight=False)


def run_import(config_path: Path, file: Path) -> None:
    """Put the file's content back, also while the host runs."""
    with reported_errors():
        runtime = open_runtime(config_path)
        try:
            done = asyncio.run(_import(runtime, parse(file.read_bytes(), runtime.secrets.pepper)))
        except (BadBackup, TooManyEdits) as error:
            fail(f"{file}: {error}")
        except OSError as error:
            fail(f"{file}: cannot be read: {error.strerror}", WRONG_INPUT)
    left = f"; rows of usage that were there already: {done.usage_rows_left}" if done.usage_rows_left else ""
    out.print(f"Imported {_counts(done.tenants, done.admins, done.usage_rows)}{left}.", highlight=False)


def _counts(tenants: int, admins: int, usage_rows: int) -> str:
    return f"tenants: {tenants}, admin keys: {admins}, rows of usage: {usage_rows}"


async def _export(runtime: Runtime) -> Backup:
    async with runtime.connect() as connection:
        return await export(connection, runtime.secrets.pepper, time.time())


async def _import(runtime: Runtime, backup: Backup) -> Restored:
    async with runtime.connect() as connection:
        return await restore(connection, backup, time.time())
