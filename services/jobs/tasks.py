"""Kinds of jobs, and what does them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from services.jobs import autotune, loadtest, power, precision, quality, rollup
from services.jobs.run import Context

HANDLERS: Mapping[str, Callable[[Context], Awaitable[dict[str, Any]]]] = {
    "kv_bits": precision.run,
    "load": power.run,
    "unload": power.run,
    "sleep": power.run,
    "wake": power.run,
    "quality": quality.run,
    "loadtest": loadtest.run,
    "usage_rollup": rollup.run,
    "autotune": autotune.run,
}
"""Each gives the job's result. Raises JobFailed, Cancelled, Fenced, QueueUnavailable; running one twice is harmless."""
