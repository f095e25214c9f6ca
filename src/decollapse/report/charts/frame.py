"""What all charts share: colours, fonts, axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import plotly.graph_objects as go

from decollapse.report.summary import Group
from decollapse.report.view import RunView

INK, SOFT, GRID = "#1f2430", "#5b6475", "#e6e8ee"
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial, sans-serif'

COLORS = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#b8860b", "#56b4e9", "#4d4d4d", "#882255")
"""Okabe and Ito's colour-blind safe palette, its yellow and its pink darkened to be legible on white."""
DASHES = ("solid", "dash", "dashdot", "longdash", "dot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "star")

BLUES = ((0.0, "#f4f7fb"), (0.02, "#e2edf7"), (0.45, "#a9cde6"), (0.62, "#6fabd5"), (0.8, "#2f78b4"), (1.0, "#0b3c66"))
"""From none, almost the paper's white, to most; its lightness falls steadily, so it prints in grey."""


@dataclass(frozen=True)
class Stroke:
    """How the lines of one group look: colour, dash and marker, in plotly's words."""

    color: str
    dash: str
    symbol: str

    def faded(self, opacity: float) -> str:
        """The colour with an opacity, for areas.

        >>> Stroke("#0072b2", "solid", "circle").faded(0.2)
        'rgba(0,114,178,0.2)'
        """
        red, green, blue = (int(self.color[at : at + 2], 16) for at in (1, 3, 5))
        return f"rgba({red},{green},{blue},{opacity})"


def stroke(index: int) -> Stroke:
    """The look of group number `index`: eight colours with markers of their own, then again with other dashes."""
    return Stroke(COLORS[index % 8], DASHES[index // 8 % 5], SYMBOLS[index % 8])


@dataclass(frozen=True)
class Chart:
    """A figure with the words around it.

    Attributes:
        key: a name that is unique on the page.
        title: what is shown.
        caption: how to read it, in a sentence or two.
        figure: without a title of its own, so that the page can set it as text.
    """

    key: str
    title: str
    caption: str
    figure: go.Figure


def frame(x_title: str, y_title: str) -> go.Figure:
    """An empty figure with labelled axes."""
    figure = go.Figure()
    axis = {
        "showline": True, "linecolor": "#b9bfcc", "gridcolor": GRID, "zeroline": False, "ticks": "outside",
        "ticklen": 4, "tickcolor": "#b9bfcc", "automargin": True, "tickfont": {"size": 12},
        "title": {"standoff": 8, "font": {"size": 13}},
    }  # fmt: skip
    figure.update_layout(
        template="none",
        font={"family": FONT, "size": 13, "color": INK},
        paper_bgcolor="white",
        plot_bgcolor="white",
        margin={"l": 56, "r": 14, "t": 12, "b": 48},
        height=340,
        hovermode="x unified",
        hoverlabel={"bgcolor": "white", "bordercolor": GRID, "font": {"size": 12}, "namelength": -1},
        legend={"orientation": "h", "y": -0.22},
        xaxis=axis,
        yaxis=axis,
    )
    figure.update_xaxes(title_text=x_title)
    figure.update_yaxes(title_text=y_title)
    return figure


def round_axis(figure: go.Figure, groups: Sequence[Group]) -> None:
    """The same rounds, whole ones, on every chart."""
    last = max((run.last_round for group in groups for run in group.runs), default=0) or 1
    figure.update_xaxes(range=[-0.03 * last, 1.03 * last], tickformat="d", dtick=1 if last <= 10 else None)


def corner(words: str) -> dict[str, object]:
    """An annotation in the upper right corner."""
    return {
        "text": words, "x": 1, "y": 1, "xref": "paper", "yref": "paper", "xanchor": "right", "yanchor": "top",
        "showarrow": False, "font": {"size": 13, "color": SOFT},
    }  # fmt: skip


def play(figure: go.Figure, frames: Sequence[go.Frame], *, at: int) -> None:
    """Show frame number `at`, with a slider for the others; the page has one control for the sliders of many charts."""
    figure.add_traces(frames[at].data)
    figure.update_layout(frames[at].layout)
    figure.frames = frames
    now = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    steps = [{"label": one.name, "method": "animate", "args": [[one.name], now]} for one in frames]
    figure.update_layout(sliders=[{"active": at, "steps": steps, "pad": {"t": 50}}])


def text(words: str) -> str:
    """Words as plotly shows them literally: it would take `<b>` for markup.

    >>> text("a < b & c")
    'a &lt; b &amp; c'
    """
    return escape(words, quote=False)


def said(run: RunView) -> str:
    """Which run a chart of one run shows."""
    return run.name if run.seed is None else f"Run {run.name} (seed {run.seed})"


def width_of(groups: Sequence[Group]) -> str:
    """The number of features as a suffix of an axis title; empty where it is unknown or differs."""
    widths = {run.num_features for group in groups for run in group.runs} - {None}
    return f" (of {widths.pop()})" if len(widths) == 1 else ""
