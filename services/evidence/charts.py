"""Charts as inline SVG with no dependency. Colours come from the page's CSS, so light and dark both work.

The drawing is 400 units wide with 12-unit type: in a column of 340 to 560 px its text stays between 10 and 17 px.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 36

# The page's colours (templates/page.html) for a drawing that stands alone.
_LIGHT = ("#2463ae", "#b8560b", "#1d7f5c", "#93358d", "#7a6a00")
_DARK = ("#6ba7ee", "#f0a15e", "#5fcba2", "#d98ad4", "#d3c25a")


def _tones(colours: Sequence[str]) -> str:
    return "".join(f".c{n}{{fill:{c}}}.l{n}{{stroke:{c}}}" for n, c in enumerate(colours, 1))


_FILE_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1a1d23}.title{font-weight:600;font-size:13px}.paper{fill:#fff}"
    f".grid{{stroke:#8a93a5;opacity:.3}}polyline{{fill:none;stroke-width:2}}{_tones(_LIGHT)}"
    f"@media(prefers-color-scheme:dark){{text{{fill:#e8eaee}}.paper{{fill:#14171c}}{_tones(_DARK)}}}"
)

Format = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Series:
    """One line: a name for the legend and points in rising x. A y of None is a gap in the line."""

    name: str
    points: Sequence[tuple[float, float | None]]


@dataclass(frozen=True, slots=True)
class Bar:
    """One horizontal bar. `tone` picks the colour, 1 to 5."""

    label: str
    value: float
    text: str
    tone: int = 1  # 0: only a heading, over the whole width


def ticks(highest: float, wanted: int = 4) -> list[float]:
    """Round values from 0 to at least `highest`: about `wanted` steps of 1, 2, 2.5 or 5 times a power of ten."""
    if highest <= 0 or not math.isfinite(highest):
        return [0.0, 1.0]
    raw = highest / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    return [i * step for i in range(math.ceil(highest / step - 1e-9) + 1)]


def plain(value: float) -> str:
    """A short number: 12, 0.25, 1.5k, 3M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds as a person writes them: 850 us, 12 ms, 1.4 s, 12 min."""
    if seconds == 0:
        return "0"
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def size(count: float) -> str:
    """Bytes in binary units: 512 B, 1.5 MiB."""
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if abs(count) >= 1024**power:
            return f"{count / 1024**power:.3g} {unit}"
    return f"{count:.0f} B"


def line_chart(
    title: str, series: Sequence[Series], x_label: str, y_format: Format = plain, x_format: Format = plain
) -> Markup:
    """Lines over a shared x axis; y starts at 0."""
    return _frame(title, _lines(series, x_label, y_format, x_format), _legend([s.name for s in series]))


def line_file(title: str, series: Sequence[Series], x_label: str, y_format: Format = plain) -> str:
    """The same as an SVG file of its own."""
    width = (WIDTH - LEFT) / len(series)
    names = "".join(
        f'<g transform="translate({LEFT + n * width:.0f} 0)"><rect class="c{n + 1}" y="5" width="12" height="4"/>'
        f'<text x="17" y="11">{escape(one.name)}</text></g>'
        for n, one in enumerate(series)
    )
    drawing = f'{names}<g transform="translate(0 12)">{_lines(series, x_label, y_format, plain)}</g>'
    return _file(title, drawing, HEIGHT + 12)


def _lines(series: Sequence[Series], x_label: str, y_format: Format, x_format: Format) -> str:
    xs = [x for s in series for x, _ in s.points]
    ys = [y for s in series for _, y in s.points if y is not None]
    if not ys:
        return '<text class="note" x="200" y="115" text-anchor="middle">no data</text>'
    x_low = min(0.0, *xs)
    x_ticks = [x_low + t for t in ticks(max(xs) - x_low)]
    y_ticks = ticks(max(ys))
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(x: float, y: float) -> str:
        right = LEFT + across * (x - x_low) / (x_ticks[-1] - x_low)
        return f"{right:.1f},{HEIGHT - BOTTOM - down * y / y_ticks[-1]:.1f}"

    parts = [_axes(x_ticks, y_ticks, x_label, x_format, y_format)]
    for tone, one in enumerate(series, 1):
        for run in _unbroken(one.points):
            path = " ".join(place(x, y) for x, y in run)
            if len(run) == 1:
                x, y = path.split(",")
                parts.append(f'<circle class="c{tone}" cx="{x}" cy="{y}" r="2.5"/>')
            else:
                parts.append(f'<polyline class="l{tone}" points="{path}"><title>{escape(one.name)}</title></polyline>')
    return "".join(parts)


def distribution(title: str, named: Sequence[tuple[str, Sequence[float]]], x_label: str, x_format: Format) -> Markup:
    """Cumulative distributions: what share of values is at most x. The last per cent is cut off the x axis."""
    series = []
    for name, values in named:
        ordered = sorted(values)
        if ordered:
            shares = [i / 100 for i in range(100)]
            points = [(ordered[min(len(ordered) - 1, int(s * len(ordered)))], s) for s in shares]
            series.append(Series(name, [(0.0, 0.0), *points]))
    return line_chart(title, series, x_label, lambda y: f"{y:.0%}", x_format)


def bar_chart(title: str, bars: Sequence[Bar], legend: Sequence[str] = ()) -> Markup:
    """Horizontal bars with their values written out."""
    drawing, height = _bars(bars)
    return _frame(title, drawing, _legend(legend), height)


def bar_file(title: str, bars: Sequence[Bar]) -> str:
    """The same as an SVG file of its own, for a README."""
    return _file(title, *_bars(bars))


def _file(title: str, drawing: str, height: int) -> str:
    """A drawing with its title, its colours, and both themes."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height + 26}" width="{WIDTH * 2}" role="img" '
        f'aria-label="{escape(title)}"><style>{_FILE_STYLE}</style>'
        f'<rect class="paper" width="{WIDTH}" height="{height + 26}" rx="6"/>'
        f'<text class="title" x="12" y="20">{escape(title)}</text><g transform="translate(0 24)">{drawing}</g></svg>\n'
    )


def _bars(bars: Sequence[Bar]) -> tuple[str, int]:
    """The drawing and its height."""
    highest = max((b.value for b in bars), default=0.0) or 1.0
    row, label_width, text_width = 24, 128, 82
    room = WIDTH - label_width - text_width
    parts = []
    for place, bar in enumerate(bars):
        top = 6 + place * row
        if not bar.tone:
            parts.append(f'<text class="title" x="12" y="{top + 16}">{escape(bar.label)}</text>')
            continue
        length = max(1.0, room * bar.value / highest) if bar.value > 0 else 0.0
        label = bar.label if len(bar.label) <= 18 else bar.label[:17] + "…"
        parts.append(
            f'<text class="label" x="{label_width - 8}" y="{top + 14}" text-anchor="end">{escape(label)}'
            f"<title>{escape(bar.label)}</title></text>"
            f'<rect class="c{bar.tone}" x="{label_width}" y="{top + 3}" width="{length:.1f}" height="15" rx="2"/>'
            f'<text class="value" x="{label_width + length + 6:.1f}" y="{top + 15}">{escape(bar.text)}</text>'
        )
    return "".join(parts), 12 + row * len(bars)


def _unbroken(points: Sequence[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None:
            runs.append([])
        else:
            runs[-1].append((x, y))
    return [r for r in runs if r]


def _axes(x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str, x_format: Format, y_format: Format) -> str:
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    parts = []
    for y in y_ticks:
        at = HEIGHT - BOTTOM - down * y / y_ticks[-1]
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text class="tick" x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{escape(y_format(y))}</text>'
        )
    for x in x_ticks:
        at = LEFT + across * (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        anchor = "end" if x == x_ticks[-1] else "middle"
        parts.append(
            f'<text class="tick" x="{at:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="{anchor}">'
            f"{escape(x_format(x))}</text>"
        )
    parts.append(
        f'<text class="tick" x="{LEFT + across / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>'
    )
    return "".join(parts)


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    items = "".join(f'<span><i class="k{n}"></i>{escape(name)}</span>' for n, name in enumerate(names, 1))
    return f'<div class="legend">{items}</div>'


def _frame(title: str, drawing: str, legend: str, height: int = HEIGHT) -> Markup:
    return Markup(  # noqa: S704  (every text in it was escaped above)
        f'<figure><figcaption>{escape(title)}</figcaption>{legend}<svg viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}">{drawing}</svg></figure>'
    )
