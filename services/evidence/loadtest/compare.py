"""Two runs beside each other: which differences are clear, and which may be chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.evidence import charts
from services.evidence.page import render
from services.evidence.statistics import Interval, quantile, quantile_interval, share_interval

from .figures import is_good, summary
from .record import ChatRecord, Result, Run
from .report import latency_charts


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One measure of both runs."""

    name: str
    a_text: str
    b_text: str
    change_text: str
    verdict: str  # "B is better" | "B is worse" | "no clear difference" | "too few chats"

    @property
    def tone(self) -> str:
        """The page's class for the verdict."""
        return {"B is better": "good", "B is worse": "bad"}.get(self.verdict, "")


def compare(a: Run, b: Run) -> list[ComparisonRow]:
    """All rows: latencies by quantile, shares, then plain figures without a verdict."""
    sides = [summary(run) for run in (a, b)]
    rows = []
    measures: tuple[tuple[str, Callable[[ChatRecord], float | None]], ...] = (
        ("first token", lambda c: c.first_token_s),
        ("between tokens", lambda c: c.inter_token_s),
        ("queue wait", lambda c: c.queue_s),
    )
    for name, measure in measures:
        values = [[v for c in side.chats if (v := measure(c)) is not None] for side in sides]
        if all(values):
            rows += [_quantile_row(f"{name}, p{q * 100:.0f}", values[0], values[1], q) for q in (0.5, 0.95, 0.99)]
    stayed = [[c for c in side.chats if c.result is not Result.ABANDONED] for side in sides]
    good = [sum(is_good(c, side.scenario.targets) for c in chats) for chats, side in zip(stayed, sides, strict=True)]
    refused = [sum(c.result is Result.REFUSED for c in side) for side in stayed]
    rows.append(_share_row("good chats", good, stayed, more_is_better=True))
    rows.append(_share_row("refused chats", refused, stayed, more_is_better=False))
    found = [side.total for side in sides]
    rows.append(_plain_row("goodput, chats/s", *(f.goodput_chats_per_s for f in found)))
    rows.append(_plain_row("answer tokens/s", *(f.tokens_per_s for f in found)))
    rows.append(_plain_row("lost or doubled", *(float(f.lost + f.doubled) for f in found)))
    return rows


def render_comparison(a: Run, b: Run, a_name: str, b_name: str) -> str:
    """The comparison as one HTML page."""
    rows = compare(a, b)
    better = [r.name for r in rows if r.verdict == "B is better"]
    worse = [r.name for r in rows if r.verdict == "B is worse"]
    lede = "No difference is clear." if not better and not worse else ""
    if better:
        lede += f"B is clearly better in: {'; '.join(better)}. "
    if worse:
        lede += f"B is clearly worse in: {'; '.join(worse)}."
    one, two = summary(a), summary(b)
    return render(
        "compare.html",
        title="Two load tests compared",
        a_name=a_name,
        b_name=b_name,
        lede=lede.strip(),
        warnings=[] if one.scenario == two.scenario else ["The two runs had different scenarios."],
        rows=rows,
        charts=latency_charts([("A", one.chats), ("B", two.chats)]),
    )


def _verdict(a: Interval | None, b: Interval | None, *, more_is_better: bool) -> str:
    if a is None or b is None:
        return "too few chats"
    if b[0] > a[2]:
        return "B is better" if more_is_better else "B is worse"
    if b[2] < a[0]:
        return "B is worse" if more_is_better else "B is better"
    return "no clear difference"


def _quantile_row(name: str, a: Sequence[float], b: Sequence[float], share: float) -> ComparisonRow:
    a_point, b_point = (quantile(sorted(values), share) for values in (a, b))
    verdict = _verdict(quantile_interval(a, share), quantile_interval(b, share), more_is_better=False)
    texts = charts.duration(a_point), charts.duration(b_point)
    return ComparisonRow(name, *texts, _change(a_point, b_point), verdict)


def _share_row(
    name: str, hits: Sequence[int], sides: Sequence[Sequence[ChatRecord]], *, more_is_better: bool
) -> ComparisonRow:
    intervals = [share_interval(h, len(side)) for h, side in zip(hits, sides, strict=True)]
    a, b = intervals
    texts = _percent(a), _percent(b)
    change = "" if a is None or b is None else f"{(b[1] - a[1]) * 100:+.1f} points"
    return ComparisonRow(name, *texts, change, _verdict(a, b, more_is_better=more_is_better))


def _plain_row(name: str, a: float, b: float) -> ComparisonRow:
    return ComparisonRow(name, charts.plain(a), charts.plain(b), _change(a, b), "")


def _percent(interval: Interval | None) -> str:
    return "–" if interval is None else f"{interval[1]:.1%}"


def _change(a: float, b: float) -> str:
    return f"{b / a - 1:+.1%}" if a else ""
