"""Colours that mean the same on paper and on the page: of label skews, of algorithms, of classes."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

from decollapse.figures.numbers import MeasuredPanel
from decollapse.pictures import colors
from decollapse.report.charts.frame import COLORS

CLASS_COLORS = (
    *("#332288", "#88ccee", "#44aa99", "#117733", "#999933"),
    *("#ddaa33", "#cc6677", "#882255", "#aa4499", "#4d4d4d"),
)
"""Tol's muted colours, his sand darkened, and a grey."""
CLASSES_NAMED = 12
"""More classes than this are in no legend: nobody could tell them apart."""


def curve_colors(panels: Sequence[MeasuredPanel]) -> dict[str, str]:
    """The colour of each curve by its name, the same in every panel, in the order of the legend."""
    indices = {one.curve.name: one.curve.index for panel in panels for one in panel.curves}
    palette = colors(1 + max(indices.values(), default=0))
    return {name: palette[at] for name, at in sorted(indices.items(), key=lambda pair: pair[1])}


def algorithm_colors(count: int) -> list[str]:
    """Of algorithms that share an axis."""
    return [COLORS[at % len(COLORS)] for at in range(count)]


def class_colors(count: int) -> list[str]:
    """A colour for each class, all different.

    >>> len(set(class_colors(10))), len(set(class_colors(100)))
    (10, 100)
    """
    if count <= len(CLASS_COLORS):
        return list(CLASS_COLORS[:count])
    shades = [colorsys.hls_to_rgb(at / count, 0.35 + 0.2 * (at % 2), 0.7) for at in range(count)]
    return ["#" + "".join(f"{round(255 * part):02x}" for part in shade) for shade in shades]
