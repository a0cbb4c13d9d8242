"""One self-contained HTML page about a run."""

from __future__ import annotations

from collections.abc import Sequence

import yaml
from markupsafe import Markup

from services.contracts.scenario import Scenario
from services.evidence import charts
from services.evidence.page import render
from services.evidence.statistics import Spread, quantile

from .figures import Figures, Summary, summary
from .meter import KvSample
from .record import ChatRecord, Result, Run

BINS = 60

METHODS = (
    "Every latency counts from the moment when the user wanted to send: the drawn arrival, or the end of the last "
    "answer plus thinking time. A send that was late, for whatever reason, makes the figure worse (coordinated "
    "omission is avoided).",
    "First token: to the first piece of text. Between tokens: a chat's time from first to last piece, divided by the "
    "server's token count less one. Silence: the time between two pieces.",
    "Good: answered whole, within every target. Goodput is good chats a second over the counted part of the run. "
    "Tokens a second are those that came within that part: what a full server delivers later does not count.",
    "Lost and doubled: event ids that jump or repeat, more pieces than the server's own token count, and (where the "
    "scenario names a tokenizer) texts clearly shorter than that count. A stream "
    "without finish reason and [DONE] counts as broken.",
    "Queue wait and KV bits come from a Bunkhouse host's answers, KV memory from its /metrics once a second; "
    "other servers do not report it.",
    "Quantiles are order statistics of the counted chats, with no smoothing.",
)


def render_report(run: Run) -> str:
    """The page, as HTML."""
    found = summary(run)
    scenario, total, tenants, fairness = found.scenario, found.total, found.tenants, found.fairness
    return render(
        "report.html",
        title=f"Load test: {scenario.name}",
        url=run.head.get("url", scenario.url),
        started=run.head.get("started", ""),
        scenario=scenario,
        lede=_lede(total, scenario),
        warnings=warnings(total),
        tiles=_tiles(total),
        charts=[*_time_charts(run.chats, scenario), *_host_charts(run.samples), *_spread_charts(found)],
        latencies=list(_latencies(total)),
        tenants=[_tenant_row(scenario, name, f) for name, f in tenants.items()],
        fairness="nothing was served" if fairness is None else f"{fairness:.3f}",
        reasons=total.reasons,
        methods=METHODS,
        scenario_text=yaml.safe_dump(run.head["scenario"], allow_unicode=True, sort_keys=False),
    )


def warnings(total: Figures) -> list[str]:
    """What a reader must know before trusting the figures."""
    found = []
    if total.lost or total.doubled:
        found.append(f"Streams lost {total.lost} and doubled {total.doubled} events or tokens.")
    lag, first = total.client_lag.p99, total.first_token.p50
    if lag is not None and lag > max(0.05, 0.1 * (first or 0.0)):
        found.append(
            f"This load tester sent 1% of its chats {charts.duration(lag)} late or more. The delay is in the figures: "
            "give it more CPU, or raise streams_max, before blaming the server."
        )
    if total.chats < 100:
        found.append(f"Only {total.chats} chats were counted, so the high quantiles say little.")
    return found


def _lede(total: Figures, scenario: Scenario) -> str:
    if not total.chats:
        return "No chat was counted."
    ok = total.results.get(Result.OK, 0)
    refused = total.results.get(Result.REFUSED, 0)
    first = total.first_token.p95
    waited = "" if first is None else f" 95 of 100 first tokens came within {charts.duration(first)}."
    return (
        f"{ok} of {total.chats} chats were answered, {refused} refused; {total.good_share:.1%} were good by the "
        f"targets, which is {total.goodput_chats_per_s:.3g} good chats a second.{waited}"
        f" {len(scenario.tenants)} tenant{'s' * (len(scenario.tenants) > 1)} took part."
    )


def _tiles(total: Figures) -> list[tuple[str, str]]:
    def seconds(value: float | None) -> str:
        return "–" if value is None else charts.duration(value)

    tiles = [
        (f"{total.good_share:.1%}", "of chats good"),
        (f"{total.goodput_chats_per_s:.3g}/s", "goodput, chats"),
        (charts.plain(total.tokens_per_s), "answer tokens/s"),
        (seconds(total.first_token.p50), "first token, median"),
        (seconds(total.first_token.p99), "first token, p99"),
        (seconds(total.inter_token.p50), "between tokens, median"),
        (f"{total.lost} / {total.doubled}", "lost / doubled"),
    ]
    if total.queue.p95 is not None:
        tiles.append((seconds(total.queue.p95), "queue wait, p95"))
    if total.kv_bytes.mean is not None:
        tiles.append((charts.size(total.kv_bytes.mean), "KV a chat, mean"))
    if total.correct_share is not None:
        tiles.append((f"{total.correct_share:.1%}", "of questions right"))
    return tiles


def _latencies(total: Figures) -> Sequence[tuple[str, ...]]:
    rows: list[tuple[str, Spread, float]] = [
        ("first token", total.first_token, 1),
        ("between tokens", total.inter_token, 1),
        ("silence between pieces", total.gap, 1),
        ("queue wait", total.queue, 1),
        ("gateway's own overhead", total.overhead_ms, 0.001),
        ("sent later than intended", total.client_lag, 1),
    ]

    def cell(value: float | None, unit: float) -> str:
        return "–" if value is None else charts.duration(value * unit)

    return [
        (name, *(cell(v, unit) for v in (s.p50, s.p90, s.p95, s.p99, s.max, s.mean)), str(s.count))
        for name, s, unit in rows
        if s.count
    ]


def _tenant_row(scenario: Scenario, name: str, f: Figures) -> tuple[str, ...]:
    weight = next((t.weight for t in scenario.tenants if t.name == name), 1.0)
    failed = f.chats - sum(f.results.get(r, 0) for r in (Result.OK, Result.REFUSED, Result.ABANDONED))
    times = (f.first_token.p50, f.first_token.p99, f.inter_token.p50)
    return (
        name,
        str(f.chats),
        f"{f.good_share:.1%}",
        str(f.results.get(Result.REFUSED, 0)),
        str(failed),
        *("–" if t is None else charts.duration(t) for t in times),
        f"{f.tokens_per_s:.3g}",
        f"{weight:g}",
    )


def _time_charts(chats: Sequence[ChatRecord], scenario: Scenario) -> list[Markup]:
    end_s = max([scenario.duration_s, *(c.end_s for c in chats)])
    width = end_s / BINS
    first: list[list[float]] = [[] for _ in range(BINS)]
    sent, ended, tokens, active = ([0.0] * BINS for _ in range(4))

    def bin_of(at_s: float) -> int:
        return min(BINS - 1, max(0, int(at_s / width)))

    for chat in chats:
        sent[bin_of(chat.intended_s)] += 1 / width
        if chat.result is Result.OK:
            ended[bin_of(chat.end_s)] += 1 / width
        for at in range(bin_of(chat.sent_s), bin_of(chat.end_s) + 1):
            overlap = min(chat.end_s, (at + 1) * width) - max(chat.sent_s, at * width)
            active[at] += max(0.0, overlap) / width
        if chat.first_s is not None and chat.first_token_s is not None:
            first[bin_of(chat.intended_s)].append(chat.first_token_s)
            at_s = chat.first_s
            tokens[bin_of(at_s)] += 1 / width
            for gap_ms in chat.gaps_ms:
                at_s += gap_ms / 1000
                tokens[bin_of(at_s)] += 1 / width
    middles = [(b + 0.5) * width for b in range(BINS)]
    ordered = [sorted(values) for values in first]

    def waits(share: float) -> list[tuple[float, float | None]]:
        return [(m, quantile(v, share) if v else None) for m, v in zip(middles, ordered, strict=True)]

    def line(name: str, values: Sequence[float]) -> charts.Series:
        return charts.Series(name, list(zip(middles, values, strict=True)))

    x_label = "seconds into the run"
    return [
        charts.line_chart(
            "First token, by when it was asked for",
            [charts.Series("median", waits(0.5)), charts.Series("p95", waits(0.95))],
            x_label,
            charts.duration,
        ),
        charts.line_chart("Chats a second", [line("wanted", sent), line("answered", ended)], x_label),
        charts.line_chart("Pieces of text a second", [line("pieces", tokens)], x_label),
        charts.line_chart("Chats under way", [line("under way", active)], x_label),
    ]


def _host_charts(samples: Sequence[KvSample]) -> list[Markup]:
    if not samples:
        return []

    def line(name: str, field: str) -> charts.Series:
        return charts.Series(name, [(s.at_s, getattr(s, field)) for s in samples])

    memory = [line("reserved", "reserved_bytes"), line("used", "used_bytes"), line("budget", "budget_bytes")]
    chats = [line("let in", "running"), line("waiting", "waiting")]
    x_label = "seconds into the run"
    return [
        charts.line_chart("KV memory of the host", memory, x_label, lambda count: f"{charts.plain(count)}B"),
        charts.line_chart("Chats in the host", chats, x_label),
    ]


def _spread_charts(found: Summary) -> list[Markup]:
    shown = list(found.tenants.items())
    sides = [(name, [chat for chat in found.chats if chat.tenant == name]) for name, _ in shown[:5]]
    bars = [
        charts.Bar(name, f.tokens_per_s, f"{f.tokens_per_s:.3g}/s", min(5, place))
        for place, (name, f) in enumerate(shown[:12], 1)
    ]
    return [*latency_charts(sides), charts.bar_chart("Answer tokens a second, by tenant", bars)]


def latency_charts(sides: Sequence[tuple[str, Sequence[ChatRecord]]]) -> list[Markup]:
    """Distributions of first tokens and of times between tokens, a line for each side."""
    first = [(name, [c.first_token_s for c in chats if c.first_token_s is not None]) for name, chats in sides]
    between = [(name, [c.inter_token_s for c in chats if c.inter_token_s is not None]) for name, chats in sides]
    return [
        charts.distribution("Share of chats whose first token came within", first, "first token", charts.duration),
        charts.distribution("Mean time between tokens; share of chats", between, "between tokens", charts.duration),
    ]
