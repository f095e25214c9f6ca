"""Heat maps: who holds which labels, and which classes are recognised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from decollapse.report.charts.frame import BLUES, Chart, frame, said, text
from decollapse.report.summary import Group
from decollapse.report.view import RunView

if TYPE_CHECKING:
    from jaxtyping import Float

MAX_CLIENTS = 100
"""More columns than this cannot be told apart."""


def label_maps(groups: Sequence[Group]) -> list[Chart]:
    """Who holds which labels: one chart for each partition among the first runs of the groups, where recorded."""
    firsts = {str(group.runs[0].class_counts): group.runs[0] for group in reversed(groups)}
    found = [run for run in reversed(firsts.values()) if run.class_counts]
    return [_label_map(run, f"labels-{number}") for number, run in enumerate(found)]


def _label_map(run: RunView, key: str) -> Chart:
    counts = np.array(run.class_counts[:MAX_CLIENTS], dtype=float).T
    num_classes, num_clients = counts.shape
    figure = frame("client", "class")
    cells = _cells(counts, "examples", written=counts.size <= 150)
    cells.update(x=[str(client) for client in range(num_clients)], y=[text(name) for name in run.classes])
    cells.update(hovertemplate="client %{x}, class %{y}: %{z} examples<extra></extra>")
    figure.add_trace(cells)
    _categories(figure, height=max(320, 90 + 26 * min(num_classes, 30)))
    caption = f"Training examples of each class that each client holds. {said(run)}."
    if len(run.class_counts) > num_clients:
        caption += f" The first {num_clients} of {len(run.class_counts)} clients."
    return Chart(key, "Who holds which labels", caption, figure)


def per_class(groups: Sequence[Group]) -> list[Chart]:
    """Test accuracy of each class at the compared round, one row a group; no chart where no run recorded it."""
    means = {group.label: row for group in groups if (row := _class_means(group)) is not None}
    if len({len(row) for row in means.values()}) != 1:
        return []
    table = np.stack(list(means.values()))
    figure = frame("class", "")
    cells = _cells(table, "accuracy (%)", written=table.shape[1] <= 20)
    classes = next(iter(groups)).runs[0].classes
    known = classes if len(classes) == table.shape[1] else [str(index) for index in range(table.shape[1])]
    cells.update(x=[text(name) for name in known], y=[text(label) for label in means], zmin=0, zmax=100)
    cells.update(hovertemplate="%{y}, class %{x}: %{z:.1f} %<extra></extra>")
    figure.add_trace(cells)
    _categories(figure, height=130 + 44 * len(means))
    return [Chart("per-class", "Test accuracy of each class", "In percent, mean over seeds.", figure)]


def _class_means(group: Group) -> Float[np.ndarray, "classes"] | None:
    records = [record for run in group.compared for record in run.records if record["round"] == group.round]
    rows = [(record.get("evaluation") or {}).get("per_class_accuracy") for record in records]
    # A class without test examples has no accuracy: null in the record, an empty cell here.
    known = [np.array(row, dtype=float) * 100 for row in rows if row]
    return np.mean(known, axis=0) if known else None


def _cells(values: Float[np.ndarray, "rows columns"], title: str, *, written: bool) -> go.Heatmap:
    """Cells with their numbers in them where there is room, else with a scale beside them; a zero is left blank."""
    words = [["" if np.isnan(value) or value == 0 else f"{value:.0f}" for value in row] for row in values]
    return go.Heatmap(
        z=values, colorscale=BLUES, xgap=2, ygap=2, text=words if written else None,
        texttemplate="%{text}" if written else None, textfont={"size": 12}, hoverongaps=False, showscale=not written,
        colorbar={"title": {"text": title, "side": "right"}, "thickness": 10, "outlinewidth": 0, "ticks": ""},
    )  # fmt: skip


def _categories(figure: go.Figure, *, height: int) -> None:
    plain = {"type": "category", "showgrid": False, "showline": False, "ticks": ""}
    figure.update_xaxes(**plain)
    figure.update_yaxes(**plain, autorange="reversed")
    figure.update_layout(height=height, hovermode="closest")
