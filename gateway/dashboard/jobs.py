"""Jobs in words: what each does, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gateway.dashboard.view import count

NAMES = {
    "kv_bits": "KV bits",
    "quality": "Quality",
    "loadtest": "Load test",
    "usage_rollup": "Usage roll-up",
    "autotune": "Autotune",
    "load": "Load",
    "unload": "Unload",
    "sleep": "Sleep",
    "wake": "Wake",
}
OPEN = ("queued", "running")
BAD = ("failed", "rolled_back", "cancelled")


@dataclass(frozen=True, slots=True)
class JobRow:
    """One job as its row shows it. `progress` is 0 to 1."""

    id: str
    name: str
    target: str
    state: str
    progress: float
    words: str
    created_s: float
    found: bool  # an autotune job with proposals still to be looked at, or that dropped some

    @property
    def open(self) -> bool:
        return self.state in OPEN

    @property
    def bad(self) -> bool:
        return self.state in BAD


def row(job: dict[str, Any]) -> JobRow:
    """From the admin API's Job."""
    result = job["result"] or {}
    succeeded = job["state"] == "succeeded"
    name = NAMES.get(job["kind"], job["kind"].replace("_", " "))
    if job["kind"] == "kv_bits" and "bits" in job["args"]:
        name = f"KV bits to {job['args']['bits']}"
    return JobRow(
        id=job["id"],
        name=name,
        target=job["target"],
        state=job["state"],
        progress=job["progress"],
        words=job["error"] or (_outcome(job["kind"], result) if succeeded else None) or job["words"],
        created_s=job["created_s"],
        found=succeeded and bool(result.get("dropped") or (result.get("proposals") and not result.get("changed"))),
    )


def _outcome(kind: str, result: dict[str, Any]) -> str | None:
    made = OUTCOMES.get(kind)
    try:
        return made(result) if made else None
    except (KeyError, TypeError, ValueError):  # a result of another version of the host
        return None


def _quality(result: dict[str, Any]) -> str:
    costs = [
        f"{found['bits']} bits {100 * found['perplexity_change']:+.1f}%"
        for found in result["measured"]
        if found.get("perplexity_change") is not None
    ]
    return f"Perplexity: {', '.join(costs)}" if costs else "measured"


def _autotune(result: dict[str, Any]) -> str:
    dropped = len(result.get("dropped", ()))
    if result.get("changed"):
        words = f"changed {', '.join(result['changed'])}"
    elif result["proposals"]:
        words = count(len(result["proposals"]), "proposal")
    else:
        return f"no proposals left: {dropped} dropped" if dropped else "no proposals"
    return f"{words}; {dropped} dropped" if dropped else words


OUTCOMES: dict[str, Callable[[dict[str, Any]], str]] = {
    "kv_bits": lambda result: f"holds KV at {int(result['kv_bits'])} bits now",
    "quality": _quality,
    "autotune": _autotune,
    "usage_rollup": lambda result: f"summed up {result['day']}: {count(result['rows'], 'row')}",
}
