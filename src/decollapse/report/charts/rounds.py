"""Curves by round: a mean over seeds with its spread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean

import numpy as np
import plotly.graph_objects as go

from decollapse.report.charts.frame import Chart, Stroke, frame, round_axis, stroke, text, width_of
from decollapse.report.summary import Group, Statistic, by_round
from decollapse.report.view import RunView, is_finite, lookup

Series = list[tuple[int, float]]
"""(round, value)."""

BAND = "Line: mean over seeds; band: ± 1 standard deviation."


def accuracy(groups: Sequence[Group]) -> Chart:
    """Test accuracy of the global model by round."""
    figure = _curves(groups, ("evaluation", "accuracy"), "test accuracy (%)", digits=1, scale=100)
    return Chart("accuracy", "Test accuracy", f"Global model, whole test set. {BAND}", figure)


def loss(groups: Sequence[Group]) -> Chart:
    """Test loss of the global model by round."""
    figure = _curves(groups, ("evaluation", "loss"), "cross-entropy (nats)", digits=3)
    return Chart("loss", "Test loss", "Mean cross-entropy of the global model over the test set.", figure)


def effective_rank(groups: Sequence[Group], *, of: str) -> Chart:
    """Effective rank of the global model's features by round; `of` is "covariance" or "correlation"."""
    figure = _curves(groups, ("spectrum", of, "effective_rank"), f"effective rank{width_of(groups)}", digits=1)
    caption = {
        "covariance": "How many directions the features spread over: exp of the entropy of the normalised eigenvalues.",
        "correlation": "The same with every dimension scaled to variance 1, which is what the penalty looks at.",
    }[of]
    return Chart(f"rank-{of}", f"Effective rank of the {of}", caption, figure)


def local_effective_rank(groups: Sequence[Group]) -> Chart:
    """Effective rank of the clients' models by round, before averaging: a mean over the clients measured."""
    figure = frame("round", f"effective rank{width_of(groups)}")
    _draw(figure, groups, _mean_local_rank, digits=1)
    caption = "Covariance of the features of each client's model after its local training; mean over clients."
    return Chart("rank-local", "Effective rank of the local models", caption, figure)


def dead_dimensions(groups: Sequence[Group]) -> Chart:
    """Feature dimensions that are constant over the test set, by round."""
    figure = _curves(groups, ("spectrum", "num_dead"), f"dead dimensions{width_of(groups)}", digits=1)
    caption = "Feature dimensions that do not vary over the test set. A correlation does not see them."
    return Chart("dead", "Dead dimensions", caption, figure)


def _curves(
    groups: Sequence[Group], path: tuple[str, ...], title: str, *, digits: int, scale: float = 1.0
) -> go.Figure:
    figure = frame("round", title)
    _draw(figure, groups, partial(_scaled, path=path, scale=scale), digits=digits)
    return figure


def _draw(figure: go.Figure, groups: Sequence[Group], read: Callable[[RunView], Series], *, digits: int) -> None:
    """Add the mean of each group, and by itself each run that is in no mean."""
    for index, group in enumerate(groups):
        points = by_round(group.compared, read)
        if points:
            figure.add_traces(_mean_and_band(points, group.label, stroke(index), digits))
        unfinished = [run for run in group.runs if run not in group.compared and read(run)]
        figure.add_traces([_unfinished(run, read(run), group.label, stroke(index), digits) for run in unfinished])
    figure.update_yaxes(rangemode="tozero")
    round_axis(figure, groups)


def _scaled(run: RunView, *, path: tuple[str, ...], scale: float) -> Series:
    return [(round_, scale * value) for round_, value in run.series(*path)]


def _mean_local_rank(run: RunView) -> Series:
    points = []
    for record in run.records:
        ranks = [lookup(client, "spectrum", "covariance", "effective_rank") for client in record.get("clients") or ()]
        known = [rank for rank in ranks if is_finite(rank)]
        points += [(int(record["round"]), fmean(known))] if known else []
    return points


def _mean_and_band(points: dict[int, Statistic], name: str, look: Stroke, digits: int) -> list[go.Scatter]:
    rounds = list(points)
    means = np.array([point.mean for point in points.values()])
    spread = np.array([point.std or 0.0 for point in points.values()])
    several = any(point.std is not None for point in points.values())
    line = go.Scatter(
        x=rounds, y=means, mode="lines+markers" if len(rounds) <= 30 else "lines", name=text(name), legendgroup=name,
        line={"color": look.color, "dash": look.dash, "width": 2.4}, marker={"symbol": look.symbol, "size": 7},
        customdata=[f" ± {value:.{digits}f}" if several else "" for value in spread],
        hovertemplate=f"%{{y:.{digits}f}}%{{customdata}}",
    )  # fmt: skip
    if not several:
        return [line]
    outline = np.concatenate([means + spread, (means - spread)[::-1]])
    band = go.Scatter(
        x=rounds + rounds[::-1], y=outline, mode="lines", fill="toself", fillcolor=look.faded(0.12), line={"width": 0},
        hoverinfo="skip", legendgroup=name, showlegend=False,
    )  # fmt: skip
    return [band, line]


def _unfinished(run: RunView, points: Sequence[tuple[int, float]], group: str, look: Stroke, digits: int) -> go.Scatter:
    return go.Scatter(
        x=[round_ for round_, _ in points], y=[value for _, value in points], mode="lines",
        name=text(f"{run.name} (unfinished)"), legendgroup=group, showlegend=False,
        line={"color": look.color, "dash": "dot", "width": 1.2}, hovertemplate=f"%{{y:.{digits}f}}",
    )  # fmt: skip
