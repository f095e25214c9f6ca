"""Spectra: eigenvalues of the feature matrices, largest first, on a logarithmic axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from decollapse.report.charts.frame import INK, Chart, Stroke, frame, said, stroke, text
from decollapse.report.eigenvalues import LocalSpectra
from decollapse.report.summary import Group
from decollapse.report.view import RunView

if TYPE_CHECKING:
    from jaxtyping import Float

RESOLUTION = 1e-9
"""Eigenvalues below this share of the largest are rounding error of float32 features, not shown."""

MAX_CLIENTS = 100
"""More lines than this cannot be told apart."""


def global_spectrum(groups: Sequence[Group], *, of: str) -> Chart:
    """Eigenvalues of the global model's features; `of` is "covariance" or "correlation"."""
    figure = frame("rank of the eigenvalue", f"eigenvalue of the {of}")
    found = [(index, group, _global(group, of)) for index, group in enumerate(groups)]
    for index, group, rows in found:
        seeds = rows if len(rows) > 1 else []
        figure.add_traces([_thin(row, group.label, stroke(index)) for row in seeds])
    for index, group, rows in found:
        if rows:
            figure.add_trace(_thick(geometric_mean(rows), group.label, stroke(index)))
    log_axis(figure, [row for _, _, rows in found for row in rows])
    caption = {
        "covariance": "Global model, last measured round. A curve that falls early is a collapsed representation; "
        "past its end there is nothing but rounding error. Thick: geometric mean over seeds; thin: each seed.",
        "correlation": "The same with every dimension scaled to variance 1, so that a dimension's size does not count.",
    }[of]
    return Chart(f"spectrum-{of}", f"Spectrum of the global model, {of}", caption, figure)


def local_spectra(groups: Sequence[Group]) -> list[Chart]:
    """One chart a group: the covariance spectrum of each local model (thin) and of the global one (thick).

    Shows the first compared run of each group that measured its clients. All charts have the same axes.
    """
    found = [(index, group, _with_locals(group)) for index, group in enumerate(groups)]
    shown = [(index, group, *pair) for index, group, pair in found if pair is not None]
    rows = [row for *_, local in shown for row in local.covariance]
    rows += [run.spectra.covariance for _, _, run, _ in shown if run.spectra is not None]
    charts = []
    for index, group, run, local in shown:
        figure = frame("rank of the eigenvalue", "eigenvalue of the covariance")
        pairs = list(zip(local.clients, local.covariance, strict=True))[:MAX_CLIENTS]
        figure.add_traces([_client(values, client, stroke(index)) for client, values in pairs])
        caption = f"{said(run)}, round {local.round}. Thin: models of {len(pairs)} clients after local training"
        if run.spectra is not None and run.spectra.round == local.round:
            figure.add_trace(_thick(run.spectra.covariance, "global model", Stroke(INK, "solid", "circle")))
            caption += "; black: the global model they were averaged into"
        log_axis(figure, rows)
        figure.update_layout(hovermode="closest", height=300)
        charts.append(Chart(f"local-{index}", group.label, f"{caption}.", figure))
    return charts


def geometric_mean(rows: Sequence[Float[np.ndarray, "d"]]) -> Float[np.ndarray, "d"]:
    """The mean of several spectra on a logarithmic axis; 0 where any of them is 0.

    >>> geometric_mean([np.array([1.0, 0.0]), np.array([100.0, 1.0])])
    array([10.,  0.])
    """
    stacked = np.maximum(np.stack([row[: min(map(len, rows))] for row in rows]), 0.0)
    with np.errstate(divide="ignore"):
        mean: Float[np.ndarray, "d"] = np.exp(np.log(stacked).mean(axis=0))
    return mean


def visible(values: Float[np.ndarray, "d"]) -> Float[np.ndarray, "d"]:
    """Eigenvalues with those that are zero up to rounding replaced by NaN: a logarithmic axis has no place for them."""
    floor = RESOLUTION * float(np.max(values, initial=0.0))
    return np.where(values > floor, values, np.nan).astype(np.float32)


def _global(group: Group, of: str) -> list[Float[np.ndarray, "d"]]:
    spectra = [run.spectra for run in group.compared if run.spectra is not None]
    return [found.covariance if of == "covariance" else found.correlation for found in spectra]


def _with_locals(group: Group) -> tuple[RunView, LocalSpectra] | None:
    pairs = [(run, run.local_spectra) for run in group.compared if run.local_spectra is not None]
    return pairs[0] if pairs else None


def _thick(values: Float[np.ndarray, "d"], name: str, look: Stroke) -> go.Scatter:
    return go.Scatter(
        x=_ranks(values), y=visible(values), mode="lines", name=text(name), legendgroup=name,
        line={"color": look.color, "dash": look.dash, "width": 2.6}, hovertemplate="%{y:.3g}",
    )  # fmt: skip


def _thin(values: Float[np.ndarray, "d"], group: str, look: Stroke) -> go.Scatter:
    return go.Scatter(
        x=_ranks(values), y=visible(values), mode="lines", legendgroup=group, showlegend=False, hoverinfo="skip",
        line={"color": look.color, "width": 0.8}, opacity=0.4,
    )  # fmt: skip


def _client(values: Float[np.ndarray, "d"], client: int, look: Stroke) -> go.Scatter:
    return go.Scatter(
        x=_ranks(values), y=visible(values), mode="lines", name=f"client {client}", showlegend=False,
        line={"color": look.color, "width": 1}, opacity=0.5,
        hovertemplate=f"client {client}, rank %{{x}}: %{{y:.3g}}<extra></extra>",
    )  # fmt: skip


def _ranks(values: Float[np.ndarray, "d"]) -> np.ndarray:
    return np.arange(1, len(values) + 1, dtype=np.int32)


def log_axis(figure: go.Figure, rows: Sequence[Float[np.ndarray, "d"]]) -> None:
    """Decades that hold everything shown, so that charts side by side compare."""
    logs = [np.log10(shown[np.isfinite(shown)]) for row in rows if (shown := visible(row)).size]
    ends = [(float(log.min()), float(log.max())) for log in logs if log.size]
    figure.update_yaxes(type="log", exponentformat="power", dtick=_tick_step(ends))
    figure.update_xaxes(tickformat="d")
    if ends:
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        figure.update_yaxes(range=[low - 0.04 * (high - low + 1), high + 0.04 * (high - low + 1)])
        figure.update_xaxes(range=[0, max(len(row) for row in rows) + 1])


def _tick_step(ends: Sequence[tuple[float, float]]) -> str | int:
    """A label at 1, 2 and 5 of each decade where there are few decades, every second decade where there are many."""
    decades = max((high for _, high in ends), default=0.0) - min((low for low, _ in ends), default=0.0)
    if decades <= 1.7:
        return "D2"
    return 1 if decades <= 6 else 2
