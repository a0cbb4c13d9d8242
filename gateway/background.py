"""Work that runs beside the requests for as long as the process does."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Iterable
from typing import Any

import structlog

log = structlog.get_logger()


def begin(*work: Coroutine[Any, Any, None]) -> list[asyncio.Task[None]]:
    """A task for each. None of them may end before `end`."""
    tasks = [asyncio.create_task(one) for one in work]
    for task in tasks:
        task.add_done_callback(_must_not_end)
    return tasks


async def end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel and await."""
    ending = list(tasks)
    for task in ending:
        task.remove_done_callback(_must_not_end)
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


def _must_not_end(task: asyncio.Task[None]) -> None:
    """A gateway whose relay is dead looks alive and answers nobody: better to end and be restarted."""
    if not task.cancelled():
        log.error("gateway.task_ended", error=repr(task.exception()))
        signal.raise_signal(signal.SIGTERM)
