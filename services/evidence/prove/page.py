"""The report of a proof: one HTML page, one Markdown file, the raw values as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import orjson
from markupsafe import Markup

from services.evidence import charts, page

from .bisection import Capacity
from .claims import TARGETS, claims, lede, method_text
from .results import MeasuredAtBits, Results


@dataclass(frozen=True, slots=True)
class ReportLine:
    """One row of the table of this machine: a measure at each precision, and 4 bits against 16."""

    name: str
    cells: tuple[str, ...]
    ratio: str
    method: str


def write(results: Results, folder: Path) -> list[Path]:
    """Write prove.html, prove.md and prove.json, and models.svg for a README. Returns the paths of the first three."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"prove.{kind}" for kind in ("html", "md", "json")]
    paths[0].write_text(render(results, "prove.html"), encoding="utf-8")
    paths[1].write_text(render(results, "prove.md"), encoding="utf-8")
    paths[2].write_bytes(orjson.dumps(as_json(results), option=orjson.OPT_INDENT_2))
    title = f"Models on one card of {charts.size(results.card_bytes)}, by KV bits"
    (folder / "models.svg").write_text(
        charts.bar_file(title, _bits_bars(results, "models", "{:.0f}")), encoding="utf-8"
    )
    return paths


def as_json(results: Results) -> dict[str, object]:
    """Plain values; precisions are keys as text. `ratios` are 4 bits over 16."""
    values = asdict(results)
    values["at"] = {str(bits): at for bits, at in values["at"].items()}
    if values["sizes"] is not None:
        values["sizes"]["per_token"] = {str(b): v for b, v in values["sizes"]["per_token"].items()}
    names = [*TARGETS, "models_at_targets", "sessions_at_targets"]
    return values | {"ratios": {name: results.ratio(name) for name in names}}


def render(results: Results, template: str) -> str:
    """One of the templates, filled."""
    rows, lines = claims(results), _lines(results)
    order = list(dict.fromkeys([line.method for line in lines] + [m for row in rows for m in row.methods]))
    return page.render(
        template,
        title=f"Proof: {results.model} at 16, 8 and 4 KV bits",
        results=results,
        lede=lede(results),
        claims=rows,
        lines=lines,
        bits=list(results.at),
        notes_of={key: place for place, key in enumerate(order, 1)},
        methods=[method_text(key) for key in order],
        charts=_charts(results) if template.endswith(".html") else [],
        card=charts.size(results.card_bytes),
        minutes=f"{results.seconds / 60:.1f}",
    )


def _lines(results: Results) -> list[ReportLine]:
    at = list(results.at.values())

    def row(name: str, texts: list[str], ratio: float | None, method: str) -> ReportLine:
        return ReportLine(name, tuple(texts), "" if ratio is None else f"{ratio:.2f}x", method)

    def values(get: str, form: str = "{:.3g}") -> list[str]:
        return [_text(_path(a, get), form) for a in at]

    def sizes(get: str) -> list[str]:
        found = [_path(a, get) for a in at]
        return ["–" if v is None else charts.size(float(v)) for v in found]

    models = [_found(a.models, a.held.models if a.held else 0) for a in at]
    sessions = [_found(a.sessions, a.held.sessions if a.held else 0) for a in at]
    return [
        row("KV bytes a token", values("held.per_token_bytes", "{:,}"), None, "memory"),
        row("memory of one model", sizes("held.model_bytes"), None, "memory"),
        row("of that, KV", values("held.kv_share", "{:.0%}"), None, "memory"),
        row("models that memory holds", values("held.models", "{}"), results.ratio("models"), "memory"),
        row("models within the targets", models, results.ratio("models_at_targets"), "targets"),
        row("sessions that memory holds", values("held.sessions", "{:,}"), results.ratio("sessions"), "memory"),
        row("sessions within the targets", sessions, results.ratio("sessions_at_targets"), "targets"),
        row("longest context, tokens", values("held.context_tokens", "{:,}"), results.ratio("context"), "context"),
        row("decoding, tokens/s", values("decode_tokens_per_s"), results.ratio("speed"), "speed"),
        row("first token after the long prompt, s", values("first_token_s"), None, "speed"),
        row("perplexity", values("fidelity.perplexity", "{:.2f}"), None, "predictions"),
        row("divergence from 16 bits, nats", values("fidelity.kl_nats", "{:.4f}"), None, "predictions"),
        row("likeliest token agrees", values("fidelity.top1_agrees", "{:.1%}"), None, "predictions"),
        row("maths right", values("maths.value", "{:.1%}"), None, "questions"),
        row("logic right", values("logic.value", "{:.1%}"), None, "questions"),
        row("thoughts before an answer, tokens", values("reasoning_tokens", "{:.1f}"), None, "questions"),
        row("same answer as at 16 bits", values("same_answers.value", "{:.1%}"), None, "questions"),
        row("distance of style from 16 bits", [_style(results, a) for a in at], None, "style"),
        row("time to change to these bits, s", values("change_s"), None, "change"),
    ]


def _style(results: Results, at: MeasuredAtBits) -> str:
    if at.bits == 16:
        return "–" if results.style_yardstick is None else f"{results.style_yardstick:.3f} (by chance)"
    return _text(at.style_distance, "{:.3f}")


def _found(capacity: Capacity | None, memory: int) -> str:
    if capacity is None:
        return "–"
    if capacity.fails is not None:
        return f"{capacity.holds}"
    return f"{capacity.holds} (all)" if capacity.limit == memory else f"{capacity.holds} (searched no further)"


def _path(value: object, path: str) -> float | None:
    for name in path.split("."):
        value = getattr(value, name, None)
    return value if isinstance(value, int | float) else None


def _text(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _charts(results: Results) -> list[Markup]:
    shown = (
        ("Models that one card's memory holds", "models", "{:.0f}"),
        ("Models within the latency targets", "models_at_targets", "{:.0f}"),
        ("Sessions that one model's memory holds", "sessions", "{:,.0f}"),
        ("Longest context that memory holds, tokens", "context", "{:,.0f}"),
        ("Decoding, tokens a second", "speed", "{:.1f}"),
    )
    drawn = [(title, _bits_bars(results, name, form)) for title, name, form in shown]
    return [charts.bar_chart(title, bars) for title, bars in drawn if bars]


def _bits_bars(results: Results, name: str, form: str) -> list[charts.Bar]:
    return [
        charts.Bar(f"{bits} bits", value, form.format(value), tone)
        for tone, bits in enumerate(results.at, 1)
        if (value := results.figure(bits, name)) is not None
    ]
