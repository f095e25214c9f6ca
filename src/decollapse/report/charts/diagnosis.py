"""Where dimensions are lost: ranks of local and averaged models by round, and classes beside ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean, median

import plotly.graph_objects as go

from decollapse.diagnosis.verdict import ENOUGH
from decollapse.report.charts.frame import INK, SOFT, Chart, Stroke, corner, frame, play, round_axis, stroke, text
from decollapse.report.diagnosed import client_rows, expected_rank, findings, rank_series
from decollapse.report.summary import Group, by_round
from decollapse.report.view import RunView

LEGEND = {"y": -0.2, "font": {"size": 12}, "entrywidth": 0.5, "entrywidthmode": "fraction", "itemsizing": "trace"}
"""Two columns, on a phone as well: one below the other leaves no room for the chart."""
KINDS = ("covariance", "correlation")


def attribution(groups: Sequence[Group]) -> list[Chart]:
    """One chart a group: effective ranks by round of local models, side by side, of their mean, and averaged.

    Two frames, `KINDS`. All charts have the same axes in the same frame.
    """
    tops = {kind: _top(groups, kind) for kind in KINDS}
    charts = []
    for index, group in enumerate(groups):
        frames = [
            go.Frame(name=kind, data=_ranks(group, kind, stroke(index)), layout=_rank_layout(group, kind, tops[kind]))
            for kind in KINDS
            if _known(group, kind)
        ]
        if not frames:
            continue
        figure = frame("round", "")
        round_axis(figure, groups)
        figure.update_layout(height=350, showlegend=True, legend=LEGEND)
        play(figure, frames, at=0)
        charts.append(Chart(f"attribution-{index}", group.label, _last_ranks(group, frames[0].name), figure))
    return charts


def classes_by_rank(groups: Sequence[Group]) -> Chart:
    """Effective number of classes of each client beside the effective rank of its model, one colour a group."""
    figure = frame("effective number of classes of the client", "effective rank of its model")
    for index, group in enumerate(groups):
        points = [
            (row.num_classes, row.rank, _point(finding.run, row.client, row.num_examples))
            for finding in findings(group)
            for row in client_rows(finding)
            if row.num_classes is not None and row.rank is not None
        ]
        if points:
            classes, ranks, names = zip(*points, strict=True)
            figure.add_trace(_cloud(classes, ranks, names, group.label, stroke(index)))
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(rangemode="tozero")
    figure.update_layout(hovermode="closest")
    caption = (
        "A point is a client in the last diagnosed round. Points that climb to the right: clients with fewer classes "
        "train models of fewer dimensions, as label skew does. A level cloud: ranks do not depend on the classes held."
    )
    return Chart("classes-rank", "Classes and rank of each client", caption, figure)


def _known(group: Group, kind: str) -> bool:
    return any(rank_series(run, of=kind, part=part) for run in group.compared for part in ("local", "averaged"))


def _points(group: Group, kind: str, part: str, *, of_clients: str = "median") -> dict[int, float]:
    """By round, the mean over the group's diagnosed runs of the lowest, the median or the highest client."""
    picks: dict[str, Callable[[Sequence[float]], float]] = {"min": min, "median": median, "max": max}
    pick = picks[of_clients]

    def read(run: RunView) -> list[tuple[int, float]]:
        return [(round_, pick(ranks)) for round_, ranks in rank_series(run, of=kind, part=part)]

    runs = [run for run in group.compared if read(run)]
    return {round_: point.mean for round_, point in by_round(runs, read).items()}


def _ranks(group: Group, kind: str, look: Stroke) -> list[go.Scatter]:
    low, middle, high = (_points(group, kind, "local", of_clients=pick) for pick in ("min", "median", "max"))
    line = partial(_line, group, kind)
    return [
        _range(low, high, look),
        _curve(middle, "local", color=look.color, dash="solid", width=2.2),
        line("averaged", "averaged", color=INK, dash="solid", width=2.6),
        line("concatenated", "side by side", color=SOFT, dash="dash", width=1.8),
        line("mean", "mean", color=SOFT, dash="dot", width=1.8),
    ]


def _line(group: Group, kind: str, part: str, name: str, *, color: str, dash: str, width: float) -> go.Scatter:
    return _curve(_points(group, kind, part), name, color=color, dash=dash, width=width)


def _curve(points: dict[int, float], name: str, *, color: str, dash: str, width: float) -> go.Scatter:
    return go.Scatter(
        x=list(points), y=[round(value, 2) for value in points.values()], name=name,
        mode="lines+markers" if len(points) <= 30 else "lines",
        line={"color": color, "dash": dash, "width": width}, marker={"size": 6}, hovertemplate="%{y:.1f}",
    )  # fmt: skip


def _range(low: dict[int, float], high: dict[int, float], look: Stroke) -> go.Scatter:
    rounds = list(low)
    # The outline makes a range of a single round visible: it has no area.
    return go.Scatter(
        x=rounds + rounds[::-1], y=[*low.values(), *reversed(high.values())], mode="lines", fill="toself",
        fillcolor=look.faded(0.14), line={"width": 4 if len(rounds) == 1 else 0, "color": look.faded(0.3)},
        hoverinfo="skip", showlegend=False,
    )  # fmt: skip


def _rank_layout(group: Group, kind: str, top: float) -> dict[str, object]:
    """The axis of a frame, and for the covariance, which verdicts are made from, the rank that is enough."""
    expected = [rank for finding in findings(group) if (rank := expected_rank(finding.diagnosis)) is not None]
    axis = {"range": [0, top], "title": {"text": f"effective rank of the {kind}"}}
    # Every frame has the line, shown or not: plotly keeps what a frame does not name.
    shown, enough = kind == "covariance" and bool(expected), ENOUGH * fmean(expected or [0.0])
    line = {"color": SOFT, "width": 1, "dash": "solid"}
    shape = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": enough, "y1": enough, "line": line}
    words = corner(f"enough: {enough:.1f}") | {"yref": "y", "y": enough, "yanchor": "bottom"}
    return {"yaxis": axis, "shapes": [shape | {"visible": shown}], "annotations": [words | {"visible": shown}]}


def _top(groups: Sequence[Group], kind: str) -> float:
    parts = ("local", "concatenated", "mean", "averaged")
    series = [rank_series(run, of=kind, part=part) for group in groups for run in group.compared for part in parts]
    return 1.06 * max((rank for pairs in series for _, ranks in pairs for rank in ranks), default=1.0)


def _last_ranks(group: Group, kind: str) -> str:
    """The numbers of the last round in words."""
    names = {"averaged": "averaged model", "concatenated": "side by side", "mean": "mean of features"}
    local = {pick: _points(group, kind, "local", of_clients=pick) for pick in ("min", "median", "max")}
    last = max([*local["median"], *_points(group, kind, "averaged")])
    words = []
    if last in local["median"]:
        low, middle, high = (local[pick][last] for pick in ("min", "median", "max"))
        words.append(f"local models {middle:.1f} ({low:.1f} to {high:.1f})")
    words += [
        f"{name} {points[last]:.1f}" for part, name in names.items() if last in (points := _points(group, kind, part))
    ]
    seeds = sum(bool(rank_series(run, of=kind, part="averaged")) for run in group.compared)
    means = f", mean over {seeds} seeds" if seeds > 1 else ""
    return f"{kind.capitalize()}, round {last}{means}: {', '.join(words)}."


def _point(run: RunView, client: int, num_examples: float | None) -> str:
    seed = "" if run.seed is None else f" (seed {run.seed})"
    return f"client {client}{seed}" + ("" if num_examples is None else f", {num_examples:.0f} examples")


def _cloud(
    classes: Sequence[float], ranks: Sequence[float], names: Sequence[str], label: str, look: Stroke
) -> go.Scatter:
    return go.Scatter(
        x=[round(value, 3) for value in classes], y=[round(value, 2) for value in ranks], customdata=names,
        mode="markers", name=text(label), legendgroup=label,
        marker={"color": look.color, "symbol": look.symbol, "size": 10, "opacity": 0.75},
        hovertemplate="%{customdata}: %{x:.1f} classes, rank %{y:.1f}",
    )  # fmt: skip
