"""Line charts side by side as one SVG: written by hand, so that they need nothing and repeat their bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

INK, SOFT, GRID = "#1f2430", "#5b6475", "#e6e8ee"
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial, sans-serif'
WIDTH, PANEL_HEIGHT = 860, 250
LEFT, RIGHT, GAP, ABOVE, BELOW = 66, 18, 62, 30, 50
KEY_HEIGHT = 22


@dataclass(frozen=True)
class Look:
    """A line's colour, its width in pixels, and its dashes in SVG's words; "" is solid."""

    color: str
    width: float = 2.5
    dash: str = ""

    def svg(self) -> str:
        """As attributes."""
        dashes = f' stroke-dasharray="{self.dash}"' if self.dash else ""
        return f'fill="none" stroke="{self.color}" stroke-width="{self.width:g}" stroke-linejoin="round"{dashes}'


@dataclass(frozen=True)
class Line:
    """Points to join. On a logarithmic axis, what lies below its end is left out."""

    x: Sequence[float]
    y: Sequence[float]
    look: Look


@dataclass(frozen=True)
class Panel:
    """One chart.

    Attributes:
        title: above it.
        x_label, y_label: of the axes.
        lines: the last is drawn on top.
        y_range: lowest and highest value shown, above 0 for a logarithmic axis.
        log: a logarithmic y axis.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    y_range: tuple[float, float]
    log: bool = False


def picture(title: str, panels: Sequence[Panel], keys: Sequence[tuple[str, Look]]) -> str:
    """The panels in a row, under a legend of `keys`; `title` is for screen readers.

    >>> "<polyline" in picture("One line", [Panel("", "x", "y", [Line([0, 1], [0, 1], Look(INK))], (0, 1))], [])
    True
    """
    places = _key_places([words for words, _ in keys])
    legend = KEY_HEIGHT * (1 + max((row for _, row in places), default=-1))
    height = legend + ABOVE + PANEL_HEIGHT + BELOW + 14
    width = (WIDTH - LEFT - RIGHT - GAP * (len(panels) - 1)) / len(panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" font-family="{escape(FONT)}" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" rx="12" fill="#ffffff"/>',
    ]
    for (words, look), (x, row) in zip(keys, places, strict=True):
        y = 22 + KEY_HEIGHT * row
        parts.append(f'<line x1="{x}" x2="{x + 24}" y1="{y}" y2="{y}" {look.svg()}/>')
        parts.append(f'<text x="{x + 31}" y="{y + 4}" fill="{INK}">{escape(words)}</text>')
    for index, panel in enumerate(panels):
        left = LEFT + index * (width + GAP)
        parts += [f'<g transform="translate({left:.1f} {legend + ABOVE + 10})">', *_panel(panel, width), "</g>"]
    return "\n".join([*parts, "</svg>\n"])


def _key_places(keys: Sequence[str]) -> list[tuple[int, int]]:
    """Where each key of the legend begins, x and row, at 7 pixels a letter.

    >>> _key_places(["short", "a much longer one"]), [row for _, row in _key_places(["a long one of many"] * 6)]
    ([(66, 0), (153, 0)], [0, 0, 0, 0, 1, 1])
    """
    places, x, row = [], LEFT, 0
    for words in keys:
        width = 52 + 7 * len(words)
        if x + width > WIDTH and x > LEFT:
            x, row = LEFT, row + 1
        places.append((x, row))
        x += width
    return places


def _panel(panel: Panel, width: float) -> list[str]:
    low, high = (math.log10(end) if panel.log else end for end in panel.y_range)
    last = max(max(line.x) for line in panel.lines)
    first = min(min(line.x) for line in panel.lines)

    def at_x(x: float) -> float:
        return width * (x - first) / ((last - first) or 1)

    def at_y(y: float) -> float:
        return PANEL_HEIGHT * (high - (math.log10(y) if panel.log else y)) / (high - low)

    centre, middle = f"{width / 2:.1f}", PANEL_HEIGHT / 2
    parts = [_text(panel.title, f'x="{centre}" y="-12" font-weight="600"')]
    for tick in _log_ticks(low, high) if panel.log else _ticks(low, high):
        y = at_y(tick)
        parts.append(f'<line x1="0" x2="{width:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GRID}"/>')
        parts.append(_text(f"{tick:g}", f'x="-8" y="{y + 4:.1f}"', anchor="end", color=SOFT))
    parts += [
        _text(f"{tick:g}", f'x="{at_x(tick):.1f}" y="{PANEL_HEIGHT + 18}"', color=SOFT) for tick in _ticks(first, last)
    ]
    for line in panel.lines:
        inside = [(x, y) for x, y in zip(line.x, line.y, strict=True) if y >= panel.y_range[0]]
        points = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in inside)
        parts.append(f'<polyline points="{points}" {line.look.svg()}/>')
    return [
        *parts,
        f'<line x1="0" x2="{width:.1f}" y1="{PANEL_HEIGHT}" y2="{PANEL_HEIGHT}" stroke="{SOFT}"/>',
        _text(panel.x_label, f'x="{centre}" y="{PANEL_HEIGHT + 38}"'),
        _text(panel.y_label, f'transform="translate(-46 {middle:g}) rotate(-90)"'),
    ]


def _text(words: str, where: str, *, anchor: str = "middle", color: str = INK) -> str:
    return f'<text {where} text-anchor="{anchor}" fill="{color}">{escape(words)}</text>'


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers within the range.

    >>> _ticks(0, 40), _ticks(1, 10)
    ([0, 10, 20, 30, 40], [2, 4, 6, 8, 10])
    """
    steps = [factor * 10**power for power in range(-3, 6) for factor in (1, 2, 5)]
    step = next(step for step in steps if (high - low) / step <= 5)
    return [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """The powers of ten within 10^low to 10^high."""
    return [10.0**power for power in range(math.ceil(low), math.floor(high) + 1)]
