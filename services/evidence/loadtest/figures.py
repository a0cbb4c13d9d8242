"""Figures of a run, out of its records. Durations are seconds unless the name says `_ms`.

- goodput: chats a second that ended well within all targets; refused, failed, broken and late ones are none;
- tokens a second: answer tokens that came within the counted part of the run; what a full server delivers after the
  load's end does not make it look faster;
- fairness: Jain's index over tenants of answer tokens a second divided by weight, 1 = equal, 1/n = one has
  all. It means something where every tenant asks for more than its share; each tenant's latencies stand
  beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from services.contracts.scenario import Scenario, Targets
from services.evidence.statistics import Spread, jain, spread

from .record import ChatRecord, Result, Run


@dataclass(frozen=True, slots=True)
class MeasuredWindow:
    """The counted part of a run, seconds since its start."""

    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class Figures:
    """One run's, or one tenant's, figures."""

    seconds: float
    chats: int
    results: dict[str, int]
    reasons: dict[str, int]  # of every chat that was not answered
    first_token: Spread
    inter_token: Spread  # each chat's mean
    gap: Spread  # every silence between pieces
    queue: Spread
    client_lag: Spread  # sent later than intended: this process or its connection limit was the bottleneck
    overhead_ms: Spread
    goodput_chats_per_s: float
    good_share: float  # of chats that did not go away on purpose
    tokens_per_s: float
    good_tokens_per_s: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    kv_bytes: Spread
    kv_bits: dict[str, int]
    lost: int
    doubled: int
    correct_share: float | None


def is_good(chat: ChatRecord, targets: Targets) -> bool:
    """Whether the chat was answered whole and within every target."""
    if chat.result is not Result.OK or chat.first_token_s is None:
        return False
    stall_s = max(chat.gaps_ms, default=0.0) / 1000
    pairs = (
        (chat.first_token_s, targets.first_token_s),
        (chat.inter_token_s, targets.inter_token_s),
        (stall_s, targets.stall_s),
    )
    return all(seen is None or limit is None or seen <= limit for seen, limit in pairs)


def figures(chats: Sequence[ChatRecord], targets: Targets, window: MeasuredWindow) -> Figures:
    """Figures over `chats`, which were meant to be sent within `window`."""
    seconds = window.seconds
    good = [c for c in chats if is_good(c, targets)]
    stayed = [c for c in chats if c.result is not Result.ABANDONED]
    answered = [c for c in chats if c.first_s is not None]
    checked = [c.correct for c in chats if c.correct is not None]
    unanswered = [c for c in chats if c.result not in (Result.OK, Result.ABANDONED)]
    return Figures(
        seconds=seconds,
        chats=len(chats),
        results=dict(Counter(c.result.value for c in chats)),
        reasons=dict(Counter(c.reason for c in unanswered).most_common()),
        first_token=spread(c.first_token_s for c in answered),
        inter_token=spread(c.inter_token_s for c in answered),
        gap=spread(g / 1000 for c in answered for g in c.gaps_ms),
        queue=spread(c.queue_s for c in chats),
        client_lag=spread(c.sent_s - c.intended_s for c in chats),
        overhead_ms=spread(c.overhead_ms for c in chats),
        goodput_chats_per_s=len(good) / seconds,
        good_share=len(good) / len(stayed) if stayed else 0.0,
        tokens_per_s=sum(_delivered(c, window) for c in chats) / seconds,
        good_tokens_per_s=sum(c.tokens for c in good) / seconds,
        prompt_tokens=sum(c.prompt_tokens or 0 for c in chats),
        cached_tokens=sum(c.cached_tokens or 0 for c in chats),
        completion_tokens=sum(c.tokens for c in chats),
        kv_bytes=spread(c.kv_bytes for c in chats),
        kv_bits=dict(Counter(str(c.kv_bits) for c in chats if c.kv_bits is not None)),
        lost=sum(c.lost for c in chats),
        doubled=sum(c.doubled for c in chats),
        correct_share=sum(checked) / len(checked) if checked else None,
    )


def _delivered(chat: ChatRecord, window: MeasuredWindow) -> float:
    """Tokens that came within the window; a chat's tokens are spread evenly over its pieces."""
    if chat.first_s is None or not chat.pieces:
        return 0.0
    at_s, inside = chat.first_s, 0
    for gap_ms in (0.0, *chat.gaps_ms):
        at_s += gap_ms / 1000
        inside += window.start_s <= at_s < window.end_s
    return inside * chat.tokens / chat.pieces


def by_tenant(chats: Sequence[ChatRecord], targets: Targets, window: MeasuredWindow) -> dict[str, Figures]:
    """Each tenant's figures, by name."""
    names = sorted({c.tenant for c in chats})
    return {n: figures([c for c in chats if c.tenant == n], targets, window) for n in names}


def counted(chats: Sequence[ChatRecord], window: MeasuredWindow) -> list[ChatRecord]:
    """The chats that count: meant to be sent within the window."""
    return [c for c in chats if window.start_s <= c.intended_s < window.end_s]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run's figures are read from: its scenario, the counted chats, and both in numbers.

    `fairness` is Jain's index over the scenario's tenants; one that got nothing counts as 0. None: nothing was served.
    """

    scenario: Scenario
    chats: Sequence[ChatRecord]
    total: Figures
    tenants: Mapping[str, Figures]
    fairness: float | None

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        tenants = {name: asdict(found) for name, found in self.tenants.items()}
        total = asdict(self.total)
        return {"scenario": self.scenario.name, "total": total, "tenants": tenants, "fairness": self.fairness}


def summary(run: Run) -> Summary:
    """The chats that count are those meant to be sent after the warm-up and before the load's end."""
    scenario = Scenario.model_validate(run.head["scenario"])
    window = MeasuredWindow(scenario.warmup_s, scenario.duration_s)
    chats = counted(run.chats, window)
    tenants = by_tenant(chats, scenario.targets, window)
    total = figures(chats, scenario.targets, window)
    return Summary(scenario, chats, total, tenants, fairness_of(scenario, tenants))


def fairness_of(scenario: Scenario, tenants: Mapping[str, Figures]) -> float | None:
    """Jain's index of tokens a second by weight."""
    return jain([(tenants[t.name].tokens_per_s if t.name in tenants else 0.0) / t.weight for t in scenario.tenants])
