"""Small SVG charts, drawn by hand: one file each, readable on light and on dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 56, 56
COLOURS = ("#2a78d6", "#d9622b", "#1f9d6b", "#9a5fd0")
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #3b4252; }
  .title { font-size: 16px; font-weight: 600; }
  .axis { stroke: #8a93a5; } .grid { stroke: #8a93a5; opacity: .25; }
  @media (prefers-color-scheme: dark) { text { fill: #d8dee9; } }
"""


@dataclass(frozen=True)
class Line:
    """One series: points (x, y) in order of x."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


def _round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    power = 10.0 ** len(str(int(value))) / 10.0 if value >= 1 else 0.1
    while power > value:
        power /= 10.0
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value * 0.999)


def _frame(title: str, x_title: str, y_title: str, body: list[str], alt: str) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(alt)}">'
        f"<title>{escape(alt)}</title><style>{STYLE}</style>"
    )
    middle = (LEFT + WIDTH - RIGHT) / 2
    texts = [
        f'<text class="title" x="{LEFT}" y="22">{escape(title)}</text>',
        f'<text x="{middle}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x_title)}</text>',
        f'<text x="{LEFT - 56}" y="{TOP - 14}">{escape(y_title)}</text>',
    ]
    return head + "".join(texts + body) + "</svg>\n"


def _grid(most: float) -> list[str]:
    out = []
    for part in range(5):
        y = HEIGHT - BOTTOM - part / 4 * (HEIGHT - TOP - BOTTOM)
        css = "axis" if part == 0 else "grid"
        out.append(f'<line class="{css}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{most * part / 4:g}</text>')
    return out


def lines(title: str, x_title: str, y_title: str, series: Sequence[Line], alt: str) -> str:
    """A line chart."""
    most_x = round(max(x for line in series for x, _ in line.points))
    most_y = _round_up(max(y for line in series for _, y in line.points))

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + x / most_x * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - min(y, most_y) / most_y * (HEIGHT - TOP - BOTTOM)

    body = _grid(most_y)
    for part in range(5):
        x, _ = place(most_x * part / 4, 0)
        body.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{most_x * part / 4:g}</text>')
    for number, line in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in line.points)
        dash = ' stroke-dasharray="6 4"' if line.dashed else ""
        body.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2.5"{dash} points="{path}"/>')
        at = LEFT + 60 + 170 * number
        body.append(f'<line x1="{at}" x2="{at + 22}" y1="36" y2="36" stroke="{colour}" stroke-width="3"{dash}/>')
        body.append(f'<text x="{at + 28}" y="40">{escape(line.name)}</text>')
    return _frame(title, x_title, y_title, body, alt)


def bars(title: str, y_title: str, values: Sequence[tuple[str, float]], alt: str, unit: str = "") -> str:
    """A bar for each (name, value), its number above it."""
    most = _round_up(max(value for _, value in values))
    room = (WIDTH - LEFT - RIGHT) / len(values)
    body = _grid(most)
    for number, (name, value) in enumerate(values):
        height = value / most * (HEIGHT - TOP - BOTTOM)
        x, y = LEFT + number * room + room * 0.2, HEIGHT - BOTTOM - height
        colour = COLOURS[0] if number == 0 else "#8a93a5"
        body.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{room * 0.6:.1f}" height="{height:.1f}" rx="3" fill="{colour}"/>'
        )
        middle = x + room * 0.3
        body.append(f'<text x="{middle:.1f}" y="{y - 6:.1f}" text-anchor="middle">{value:.3g}{unit}</text>')
        body.append(f'<text x="{middle:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{escape(name)}</text>')
    return _frame(title, "", y_title, body, alt)
