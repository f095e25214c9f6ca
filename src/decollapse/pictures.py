"""Pictures for a paper, as SVG and PNG: matplotlib, which is an extra, imported only here.

The same numbers give the same bytes: no date, no random identifiers. Text stays text in the SVG.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, GRID = "#1f2430", "#5b6475", "#e6e8ee"
PALETTE = ("#e8a100", "#eb7852", "#cb4678", "#9a179b", "#5b02a3", "#0d0887")
"""Plasma, its yellow end darkened: from the most unequal clients to the equal ones; its lightness falls steadily."""
FULL_WIDTH, PANEL_HEIGHT = 7.0, 2.3
"""Inches: the text of a page with two columns, and an axis in it."""
DPI = 200

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so that every machine measures text alike
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.labelsize": 8,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.3,
    "lines.linewidth": 1.6,
    "lines.solid_joinstyle": "round",
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "decollapse",
    "text.color": INK,
}


@dataclass(frozen=True)
class Look:
    """How a line looks, in matplotlib's words: colour, width in points, dashes ("" for none), marker, filled or not."""

    color: str
    width: float = 1.6
    dash: str = "-"
    marker: str = ""
    filled: bool = True

    @property
    def style(self) -> dict[str, Any]:
        """As arguments of `Axes.plot`."""
        style = {"color": self.color, "linewidth": self.width, "linestyle": self.dash, "marker": self.marker or None}
        return style if self.filled else style | {"markerfacecolor": "white"}


class MatplotlibMissingError(ValueError):
    """Pictures were asked for, and matplotlib is not installed; the message says how to get it."""


def has_matplotlib() -> bool:
    """Whether pictures can be drawn."""
    try:
        import matplotlib  # noqa: F401  # whether it is there
    except ImportError:
        return False
    return True


def require_matplotlib() -> None:
    """Raise MatplotlibMissingError if there is no matplotlib."""
    if not has_matplotlib():
        raise MatplotlibMissingError("PNG and SVG pictures need matplotlib: pip install 'decollapse[figures]'.")


def save_picture(
    draw: Callable[[], Figure], stem: Path, *, title: str, suffixes: Sequence[str] = ("svg", "png")
) -> list[Path]:
    """Draw in the style of this module, and write `stem`.svg and `stem`.png.

    Args:
        draw: makes the figure.
        stem: the files without their suffix; their folder is made.
        title: of the picture, for screen readers.
        suffixes: "svg", "png" or both.

    Raises:
        MatplotlibMissingError: there is no matplotlib.
    """
    require_matplotlib()
    from matplotlib import rc_context

    stem.parent.mkdir(parents=True, exist_ok=True)
    metadata = {
        "svg": {"Title": title, "Date": None, "Creator": None},
        "png": {"Title": title, "Software": None},
    }
    paths = {suffix: stem.with_name(f"{stem.name}.{suffix}") for suffix in suffixes}
    with rc_context(STYLE):
        figure = draw()
        for suffix, path in paths.items():
            figure.savefig(path, dpi=DPI, metadata=metadata[suffix])
    return list(paths.values())


def axes_in_rows(count: int, *, columns: int = 2, height: float = PANEL_HEIGHT) -> tuple[Figure, list[Axes]]:
    """A figure of `count` axes, up to `columns` of them side by side; fewer make a narrower figure."""
    from matplotlib.figure import Figure

    across = min(count, columns)
    down = -(-count // columns)
    figure = Figure(figsize=(FULL_WIDTH * (across / columns if columns > 1 else 0.5), height * down + 0.3))
    return figure, [figure.add_subplot(down, across, number + 1) for number in range(count)]


def legend(figure: Figure, keys: Sequence[tuple[str, Look]]) -> None:
    """One legend for all axes, above them, in as few rows as its width allows."""
    from matplotlib.lines import Line2D

    if keys:
        columns = legend_columns([words for words, _ in keys], float(figure.get_figwidth()))
        handles = [Line2D([], [], label=words, **look.style) for words, look in keys]
        figure.legend(handles=handles, loc="outside upper center", ncols=columns)


def legend_columns(labels: Sequence[str], inches: float) -> int:
    """How many columns of a legend fit side by side, filled column by column as matplotlib does.

    >>> legend_columns(["short"] * 5, 7.0), legend_columns(["a label of many letters"] * 5, 7.0)
    (5, 3)
    """
    widths = [0.46 + 0.063 * len(label) for label in labels]
    for rows in range(1, len(labels)):
        columns = [widths[at : at + rows] for at in range(0, len(labels), rows)]
        if sum(map(max, columns)) <= inches:
            return len(columns)
    return 1


def colors(count: int) -> list[str]:
    """A colour for each of `count` curves in order: the ends of the palette, and evenly between.

    >>> colors(1), colors(2)
    (['#e8a100'], ['#e8a100', '#0d0887'])
    """
    if count > len(PALETTE):
        return [_between(index / (count - 1)) for index in range(count)]
    return [PALETTE[round(index * (len(PALETTE) - 1) / max(1, count - 1))] for index in range(count)]


def _between(share: float) -> str:
    """A colour of the palette at `share` of its length, mixed from its neighbours."""
    at = share * (len(PALETTE) - 1)
    left = min(int(at), len(PALETTE) - 2)
    pairs = [(int(PALETTE[left][i : i + 2], 16), int(PALETTE[left + 1][i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a + (b - a) * (at - left)):02x}" for a, b in pairs)
