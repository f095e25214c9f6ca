"""Spectra round by round: the local models and the one they were averaged into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from decollapse.report.charts.frame import INK, Chart, Stroke, corner, frame, play, said, stroke
from decollapse.report.charts.spectra import log_axis, visible
from decollapse.report.eigenvalues import RoundSpectra, evenly
from decollapse.report.summary import Group
from decollapse.report.view import RunView

if TYPE_CHECKING:
    from jaxtyping import Float

MAX_CLIENTS = 30
"""More thin lines than this cannot be told apart, and every round has them again."""
MAX_POINTS = 64
"""Eigenvalues drawn one by one; of the rest, as many again stand for all."""


def spectra_by_round(groups: Sequence[Group]) -> list[Chart]:
    """One chart a group with a frame a round: the averaged model's spectrum before those of the local models.

    Shows the first compared run of each group that has a diagnosis. All charts have the same axes in all frames.
    """
    found = [(index, group, _with_history(group)) for index, group in enumerate(groups)]
    shown = [(index, group, run) for index, group, run in found if run is not None]
    rows = [row for _, _, run in shown for spectra in run.history for row in _rows(spectra)]
    charts = []
    for index, group, run in shown:
        figure = frame("rank of the eigenvalue", "eigenvalue of the covariance")
        look = stroke(index)
        frames = [
            go.Frame(
                name=str(spectra.round),
                data=[_locals(spectra, look), _averaged(spectra)],
                layout={"annotations": [corner(f"round {spectra.round}")]},
            )
            for spectra in run.history
        ]
        log_axis(figure, rows)
        figure.update_layout(hovermode="closest", height=320)
        play(figure, frames, at=len(frames) - 1)
        charts.append(Chart(f"evolution-{index}", group.label, _who(run), figure))
    return charts


def _with_history(group: Group) -> RunView | None:
    return next((run for run in group.compared if any(spectra.local for spectra in run.history)), None)


def _rows(spectra: RoundSpectra) -> list[Float[np.ndarray, "d"]]:
    averaged = [] if spectra.averaged is None else [spectra.averaged.covariance]
    return averaged + ([] if spectra.local is None else list(spectra.local.covariance[:MAX_CLIENTS]))


def _who(run: RunView) -> str:
    measured = max(len(spectra.local.clients) for spectra in run.history if spectra.local is not None)
    drawn = f"{MAX_CLIENTS} of {measured}" if measured > MAX_CLIENTS else str(measured)
    return f"{said(run)}. Thin: models of {drawn} clients after local training; black: the model averaged from them."


def _locals(spectra: RoundSpectra, look: Stroke) -> go.Scatter:
    """All local models as one line with gaps, because frames cannot add lines."""
    x: list[int | None] = []
    y: list[float | None] = []
    clients: list[int | None] = []
    if spectra.local is not None:
        pairs = zip(spectra.local.clients, spectra.local.covariance, strict=True)
        for client, values in list(pairs)[:MAX_CLIENTS]:
            ranks, heights = thinned(values)
            x, y, clients = [*x, *ranks, None], [*y, *heights, None], [*clients, *[client] * len(ranks), None]
    return go.Scatter(
        x=x, y=y, customdata=clients, mode="lines", line={"color": look.color, "width": 1}, opacity=0.5,
        hovertemplate="client %{customdata}, rank %{x}: %{y:.3g}<extra></extra>",
    )  # fmt: skip


def _averaged(spectra: RoundSpectra) -> go.Scatter:
    ranks, heights = ([], []) if spectra.averaged is None else thinned(spectra.averaged.covariance)
    return go.Scatter(
        x=ranks, y=heights, mode="lines", line={"color": INK, "width": 2.6},
        hovertemplate="averaged model, rank %{x}: %{y:.3g}<extra></extra>",
    )  # fmt: skip


def thinned(values: Float[np.ndarray, "d"]) -> tuple[list[int], list[float | None]]:
    """Ranks and eigenvalues to four digits: all of the first `MAX_POINTS`, and as many of the rest."""
    rest = max(len(values) - MAX_POINTS, 0)
    at = [*range(min(len(values), MAX_POINTS)), *(MAX_POINTS + step for step in evenly(rest, MAX_POINTS))]
    heights = visible(values)[at]
    return [one + 1 for one in at], [float(f"{one:.4g}") if np.isfinite(one) else None for one in heights]
