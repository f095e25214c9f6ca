"""The figures on paper, with matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from decollapse.figures.looks import CLASSES_NAMED, algorithm_colors, class_colors, curve_colors
from decollapse.figures.numbers import THRESHOLD, THRESHOLDS, MeasuredPanel
from decollapse.figures.panels import ALPHA
from decollapse.figures.sphere import Sphere
from decollapse.figures.words import AXIS, TITLES, threshold
from decollapse.pictures import FULL_WIDTH, SOFT, Look, axes_in_rows, legend, save_picture
from decollapse.report.summary import Statistic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from mpl_toolkits.mplot3d import Axes3D

MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
LINE = Look(SOFT, 1.0, "--")


def save_figures(panels: Sequence[MeasuredPanel], spheres: Sequence[Sphere], out: Path) -> list[Path]:
    """Write each figure that has anything in it as `figure_KEY.svg` and `figure_KEY.png`; what was written.

    Raises:
        MatplotlibMissingError: there is no matplotlib.
    """
    figures: dict[str, Callable[[], Figure]] = {
        "global": lambda: spectra_figure(panels, of="global"),
        "local": lambda: spectra_figure(panels, of="local"),
        "significant": lambda: significant_figure(panels),
        "sphere": lambda: sphere_figure(spheres),
    }
    empty = {"local": not any(one.local for panel in panels for one in panel.curves), "sphere": not spheres}
    drawn = [(key, draw) for key, draw in figures.items() if not empty.get(key)]
    return [path for key, draw in drawn for path in save_picture(draw, out / f"figure_{key}", title=TITLES[key])]


def spectra_figure(panels: Sequence[MeasuredPanel], *, of: str) -> Figure:
    """log10 of the eigenvalues against rank, a panel an algorithm; `of` is "global" or "local"."""
    figure, axes = axes_in_rows(len(panels))
    colors = curve_colors(panels)
    for axis, panel in zip(axes, panels, strict=True):
        axis.axhline(THRESHOLD, **LINE.style)
        for one in panel.curves:
            if (values := one.mean if of == "global" else one.local_mean) is not None:
                axis.plot(np.arange(1, len(values) + 1), values, **Look(colors[one.curve.name]).style)
        axis.set(title=panel.title, xlabel="rank", ylabel=AXIS[panels[0].absolute])
    _share_y(axes)
    legend(figure, [*((name, Look(color)) for name, color in colors.items()), (threshold(panels), LINE)])
    return figure


def significant_figure(panels: Sequence[MeasuredPanel]) -> Figure:
    """Eigenvalues above the threshold by how the data were dealt; beside it, above every threshold."""
    figure, (first, *others) = axes_in_rows(1 + len(panels), columns=min(3, 1 + len(panels)), height=2.4)
    colors = curve_colors(panels)
    names = list(colors)
    for at, (panel, color) in enumerate(zip(panels, algorithm_colors(len(panels)), strict=True)):
        shift = 0.1 * (at - (len(panels) - 1) / 2)
        counts = [Statistic.of(one.significant()) for one in panel.curves]
        first.errorbar(
            [names.index(one.curve.name) + shift for one in panel.curves],
            [count.mean for count in counts if count],
            yerr=[count.std or 0.0 for count in counts if count],
            label=panel.title,
            capsize=2.5,
            elinewidth=1.0,
            markersize=4.5,
            **Look(color, 1.2, "-", MARKERS[at % len(MARKERS)]).style,
        )
    first.set_xticks(range(len(names)), [fill(name.removeprefix(f"{ALPHA} = "), 14) for name in names])
    first.set(title=f"above {threshold(panels)}", ylabel="dimensions", xlim=(-0.4, len(names) - 0.6))
    first.set_xlabel(ALPHA if any(name.startswith(f"{ALPHA} = ") for name in names) else "")
    first.set_ylim(bottom=0)
    if len(panels) > 1:
        first.set_ylim(top=1.35 * first.get_ylim()[1])  # room for the legend
        first.legend(loc="upper center", fontsize=7)
    for axis, panel in zip(others, panels, strict=True):
        axis.axvline(THRESHOLD, **LINE.style)
        for one in panel.curves:
            axis.plot(THRESHOLDS, one.by_threshold(), **Look(colors[one.curve.name]).style)
        axis.set(title=panel.title, xlabel="log₁₀ of the threshold", ylabel="dimensions above it")
    _share_y(others)
    legend(figure, [(name, Look(color)) for name, color in colors.items()])
    return figure


def sphere_figure(spheres: Sequence[Sphere]) -> Figure:
    """The points of each sphere, those at the back faded, coloured by class."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(FULL_WIDTH * len(spheres) / 3, 2.95))
    for at, sphere in enumerate(spheres, start=1):
        axis: Axes3D = figure.add_subplot(1, len(spheres), at, projection="3d")
        _draw_sphere(axis, sphere)
    classes = spheres[0].classes
    if len(classes) <= CLASSES_NAMED:
        handles = [
            Line2D([], [], label=name, color=color, linestyle="", marker="o", markersize=4)
            for name, color in zip(classes, class_colors(len(classes)), strict=True)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=7.5, handletextpad=0.1)
    return figure


def _draw_sphere(axis: Axes3D, sphere: Sphere) -> None:
    around, up = np.meshgrid(np.linspace(0, 2 * np.pi, 49), np.linspace(0, np.pi, 25))
    ball = np.cos(around) * np.sin(up), np.sin(around) * np.sin(up), np.cos(up)
    axis.plot_wireframe(*ball, color="#c9ced8", linewidth=0.35, rstride=4, cstride=4)
    colors = np.array(class_colors(len(sphere.classes)))[sphere.labels.numpy()]
    x, y, z = 1.01 * sphere.points.numpy().T
    axis.scatter(x, y, z, c=colors, s=5, linewidths=0, depthshade=True, rasterized=True)
    axis.set(xlim=(-1, 1), ylim=(-1, 1), zlim=(-1, 1))
    axis.set_box_aspect((1, 1, 1), zoom=1.5)
    axis.view_init(elev=22, azim=-55)
    axis.set_axis_off()
    axis.set_title(f"{sphere.title}\n{100 * sphere.share:.0f} % of the variance", fontsize=8)


def _share_y(axes: Sequence[Axes]) -> None:
    """The same range, so that panels side by side compare."""
    low, high = min(axis.get_ylim()[0] for axis in axes), max(axis.get_ylim()[1] for axis in axes)
    for axis in axes:
        axis.set_ylim(low, high)
