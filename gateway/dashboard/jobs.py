"""Jobs in words: what each does, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from gateway.admin.schemas import Job, Quality
from gateway.dashboard.view import count
from services.planner.autotune import AutotuneResult

NAMES = {
    "kv_bits": "KV bits",
    "quality": "Quality",
    "bot_test": "Test set",
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


# What is shown of results. What a kind has beside it is left out.


@dataclass(frozen=True, slots=True)
class KvBitsResult:
    """A change of KV bits."""

    kv_bits: int


@dataclass(frozen=True, slots=True)
class QualityResult:
    """Measured costs of KV bits."""

    measured: list[Quality]


@dataclass(frozen=True, slots=True)
class RollupResult:
    """Sums of a day's usage."""

    day: str
    rows: int


@dataclass(frozen=True, slots=True)
class BotTestResult:
    """A run of a bot's test set. `right`: by KV bits."""

    questions: int
    right: Mapping[int, int]
    differ: int


JobResult = KvBitsResult | QualityResult | BotTestResult | RollupResult | AutotuneResult
RESULTS: Mapping[str, TypeAdapter[JobResult]] = {
    "kv_bits": TypeAdapter(KvBitsResult),
    "quality": TypeAdapter(QualityResult),
    "bot_test": TypeAdapter(BotTestResult),
    "usage_rollup": TypeAdapter(RollupResult),
    "autotune": TypeAdapter(AutotuneResult),
}


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
    reported: bool  # it has a report of its own

    @property
    def open(self) -> bool:
        return self.state in OPEN

    @property
    def bad(self) -> bool:
        return self.state in BAD


def row(job: Job) -> JobRow:
    """From the admin API's Job."""
    succeeded = job.state == "succeeded"
    name = NAMES.get(job.kind, job.kind.replace("_", " "))
    if job.kind == "kv_bits" and "bits" in job.args:
        name = f"KV bits to {job.args['bits']}"
    result = result_of(job) if succeeded else None
    return JobRow(
        id=job.id,
        name=name,
        target=job.target,
        state=job.state,
        progress=job.progress,
        words=job.error or (_outcome(result) if result else None) or job.words,
        created_s=job.created_s,
        reported=isinstance(result, BotTestResult),
        found=isinstance(result, AutotuneResult) and bool(result.dropped or (result.proposals and not result.changed)),
    )


def result_of(job: Job) -> JobResult | None:
    """A job's result, or None where it has none that this version knows."""
    if job.kind not in RESULTS:
        return None
    try:
        return RESULTS[job.kind].validate_python(job.result)
    except ValidationError:  # a result of another version of the host
        return None


def _outcome(result: JobResult) -> str:
    match result:
        case KvBitsResult():
            return f"holds KV at {result.kv_bits} bits now"
        case QualityResult():
            return _costs(result.measured)
        case BotTestResult():
            return _tested(result)
        case RollupResult():
            return f"summed up {result.day}: {count(result.rows, 'row')}"
        case AutotuneResult():
            return _proposed(result)


def _tested(result: BotTestResult) -> str:
    by_bits = sorted(result.right.items(), reverse=True)
    words = f"Right: {', '.join(f'{bits} bits {right} of {result.questions}' for bits, right in by_bits)}"
    return f"{words}; {count(result.differ, 'question')} not the same at all bits" if result.differ else words


def _costs(measured: Sequence[Quality]) -> str:
    costs = [
        f"{found.bits} bits {100 * found.perplexity_change:+.1f}%"
        for found in measured
        if found.perplexity_change is not None
    ]
    return f"Perplexity: {', '.join(costs)}" if costs else "measured"


def _proposed(result: AutotuneResult) -> str:
    dropped = len(result.dropped)
    if result.changed:
        words = f"changed {', '.join(result.changed)}"
    elif result.proposals:
        words = count(len(result.proposals), "proposal")
    else:
        return f"no proposals left: {dropped} dropped" if dropped else "no proposals"
    return f"{words}; {dropped} dropped" if dropped else words
