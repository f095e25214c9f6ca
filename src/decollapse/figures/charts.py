"""The figures on the page, with plotly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from decollapse.figures.looks import algorithm_colors, class_colors, curve_colors
from decollapse.figures.numbers import THRESHOLD, THRESHOLDS, MeasuredPanel
from decollapse.figures.sphere import Sphere
from decollapse.figures.words import AXIS, threshold
from decollapse.report.charts.frame import FONT, INK, SOFT, SYMBOLS, Chart, frame, text
from decollapse.report.summary import Statistic


def spectra_charts(panels: Sequence[MeasuredPanel], *, of: str) -> list[Chart]:
    """log10 of the eigenvalues against rank, a chart a panel; `of` is "global" or "local"."""
    colors = curve_colors(panels)
    charts = []
    for at, panel in enumerate(panels):
        figure = frame("rank", AXIS[panel.absolute])
        for one in panel.curves:
            if (values := one.mean if of == "global" else one.local_mean) is not None:
                ranks = np.arange(1, len(values) + 1)
                figure.add_trace(_curve(ranks, values, one.curve.name, colors[one.curve.name]))
        figure.add_hline(THRESHOLD, line={"color": SOFT, "width": 1, "dash": "dash"})
        charts.append(Chart(f"{of}-{at}", panel.title or "All settings", "", figure))
    _share_y(charts)
    return charts


def significant_charts(panels: Sequence[MeasuredPanel]) -> list[Chart]:
    """Eigenvalues above the threshold by how the data were dealt, then above every threshold, a chart a panel."""
    colors = curve_colors(panels)
    figure = frame("", "dimensions")
    for at, (panel, color) in enumerate(zip(panels, algorithm_colors(len(panels)), strict=True)):
        counts = [count for one in panel.curves if (count := Statistic.of(one.significant()))]
        figure.add_trace(
            go.Scatter(
                x=[text(one.curve.name) for one in panel.curves],
                y=[count.mean for count in counts],
                error_y={"array": [count.std or 0.0 for count in counts], "visible": any(c.std for c in counts)},
                name=text(panel.title),
                mode="lines+markers",
                line={"color": color, "width": 2},
                marker={"symbol": SYMBOLS[at % len(SYMBOLS)], "size": 8},
            )
        )
    figure.update_layout(showlegend=len(panels) > 1, legend={"y": -0.15})
    figure.update_xaxes(categoryorder="array", categoryarray=[text(name) for name in colors])
    figure.update_yaxes(rangemode="tozero")
    by_threshold = []
    for at, panel in enumerate(panels):
        curves = frame("log₁₀ of the threshold", "dimensions above it")
        curves.add_traces(
            [_curve(THRESHOLDS, one.by_threshold(), one.curve.name, colors[one.curve.name]) for one in panel.curves]
        )
        curves.add_vline(THRESHOLD, line={"color": SOFT, "width": 1, "dash": "dash"})
        by_threshold.append(Chart(f"threshold-{at}", panel.title or "All settings", "", curves))
    _share_y(by_threshold)
    return [Chart("significant", f"Above {threshold(panels)}", "", figure), *by_threshold]


def sphere_charts(spheres: Sequence[Sphere]) -> list[Chart]:
    """The points of each sphere, coloured by class; a reader turns it."""
    charts = []
    for at, sphere in enumerate(spheres):
        figure = go.Figure(_globe())
        for label, color in enumerate(class_colors(len(sphere.classes))):
            if len(points := sphere.points[sphere.labels == label].numpy().round(3)):
                figure.add_trace(_points(points, sphere.classes[label], color))
        hidden = {"visible": False, "range": [-1.05, 1.05]}
        figure.update_layout(
            template="none",
            font={"family": FONT, "size": 12, "color": INK},
            paper_bgcolor="white",
            margin={"l": 0, "r": 0, "t": 0, "b": 0},
            height=340,
            showlegend=True,
            legend={"orientation": "h", "y": 0, "itemsizing": "constant"},
            scene={"xaxis": hidden, "yaxis": hidden, "zaxis": hidden, "aspectmode": "cube", "camera": {"eye": _EYE}},
        )
        caption = f"{100 * sphere.share:.0f} % of the variance of the features."
        charts.append(Chart(f"sphere-{at}", sphere.title, caption, figure))
    return charts


_EYE = {"x": 0.8, "y": -1.15, "z": 0.6}


def _globe() -> list[go.Scatter3d]:
    """Circles of latitude and longitude."""
    around = np.linspace(0, 2 * np.pi, 49)
    flat = [
        *((np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.full(49, np.sin(up))) for up in (-0.8, 0, 0.8)),
        *(
            (np.cos(at) * np.cos(around), np.sin(at) * np.cos(around), np.sin(around))
            for at in (0, 0.785, 1.571, 2.356)
        ),
    ]
    gap = np.array([np.nan])
    x, y, z = (np.concatenate([part for circle in flat for part in (circle[axis], gap)]).round(3) for axis in range(3))
    line = {"color": "#c9ced8", "width": 2}
    return [go.Scatter3d(x=x, y=y, z=z, mode="lines", line=line, hoverinfo="skip", showlegend=False)]


def _points(points: np.ndarray, name: str, color: str) -> go.Scatter3d:
    x, y, z = points.T
    marker = {"size": 2.5, "color": color}
    hover = f"{text(name)}<extra></extra>"
    return go.Scatter3d(x=x, y=y, z=z, mode="markers", marker=marker, name=text(name), hovertemplate=hover)


def _curve(x: np.ndarray, y: np.ndarray, name: str, color: str) -> go.Scatter:
    return go.Scatter(
        x=x.round(3), y=y.round(4), mode="lines", name=text(name), legendgroup=name,
        line={"color": color, "width": 2.4}, hovertemplate="%{y:.3g}",
    )  # fmt: skip


def _share_y(charts: Sequence[Chart]) -> None:
    """The same range, so that charts side by side compare."""
    values = [trace.y for chart in charts for trace in chart.figure.data]
    finite = np.concatenate([np.asarray(y)[np.isfinite(y)] for y in values]) if values else np.zeros(0)
    if len(finite):
        low, high = float(min(finite.min(), THRESHOLD)), float(finite.max())
        for chart in charts:
            chart.figure.update_yaxes(range=[low - 0.05 * (high - low), high + 0.05 * (high - low)])
