"""The numbers of the figures: spectra averaged over seeds, and dimensions above a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from decollapse.figures.panels import Curve, Panel, has_locals
from decollapse.report.charts.spectra import RESOLUTION
from decollapse.report.summary import Statistic
from decollapse.report.view import lookup

if TYPE_CHECKING:
    from jaxtyping import Float

    from decollapse.figures.sphere import Sphere

THRESHOLD = -2.0
"""log10 of the eigenvalue above which a dimension is significant."""
THRESHOLDS = np.linspace(-5.0, 0.0, 51)
"""log10 of the thresholds that are tried in turn."""


@dataclass(frozen=True)
class Measured:
    """The spectra of one curve.

    Attributes:
        curve: which.
        spectra: of the global models, one row a seed, largest first.
        local: of the local models of each seed, one row a client; only the seeds that measured them.
    """

    curve: Curve
    spectra: tuple[Float[np.ndarray, "d"], ...]
    local: tuple[Float[np.ndarray, "clients d"], ...]

    @property
    def mean(self) -> Float[np.ndarray, "d"]:
        """log10 of the geometric mean over seeds; NaN where a seed has an eigenvalue of 0."""
        return mean_log10(self.spectra)

    @property
    def local_mean(self) -> Float[np.ndarray, "d"] | None:
        """The same over clients and seeds, every client counting once; None where none was measured."""
        return mean_log10([row for rows in self.local for row in rows]) if self.local else None

    def significant(self, log_threshold: float = THRESHOLD) -> list[int]:
        """Eigenvalues above the threshold, for each seed."""
        return [int((row > 10.0**log_threshold).sum()) for row in self.spectra]

    def local_significant(self, log_threshold: float = THRESHOLD) -> list[float]:
        """The mean over clients of the same, for each seed that measured them."""
        return [float((rows > 10.0**log_threshold).sum(axis=1).mean()) for rows in self.local]

    def by_threshold(self) -> Float[np.ndarray, "t"]:
        """The mean over seeds, for each of `THRESHOLDS`."""
        return np.array([np.mean(self.significant(threshold)) for threshold in THRESHOLDS])


@dataclass(frozen=True)
class MeasuredPanel:
    """A panel with its numbers.

    Attributes:
        title: of the panel.
        curves: its curves.
        absolute: whether eigenvalues are as they are, or divided by the largest of their spectrum.
    """

    title: str
    curves: tuple[Measured, ...]
    absolute: bool


def measured(panels: Sequence[Panel], *, absolute: bool) -> list[MeasuredPanel]:
    """The numbers of every curve of every panel."""
    return [
        MeasuredPanel(panel.title, tuple(_measured(curve, absolute) for curve in panel.curves), absolute)
        for panel in panels
    ]


def _measured(curve: Curve, absolute: bool) -> Measured:
    spectra = [run.spectra.covariance for run in curve.runs if run.spectra is not None]
    local = [run.local_spectra.covariance for run in curve.runs if run.local_spectra is not None and has_locals(run)]
    return Measured(
        curve,
        tuple(shown(row, absolute=absolute) for row in spectra),
        tuple(np.stack([shown(row, absolute=absolute) for row in rows]) for rows in local),
    )


def shown(eigenvalues: Float[np.ndarray, "d"], *, absolute: bool) -> Float[np.ndarray, "d"]:
    """Eigenvalues as they are, or each divided by the largest; those that are rounding error are 0.

    >>> shown(np.array([4.0, 1.0, 1e-12]), absolute=False)
    array([1.  , 0.25, 0.  ])
    """
    largest = max(float(eigenvalues.max()), float(np.finfo(np.float64).tiny))
    kept = np.where(eigenvalues > RESOLUTION * largest, eigenvalues, 0.0)
    return kept if absolute else kept / largest


def mean_log10(rows: Sequence[Float[np.ndarray, "d"]]) -> Float[np.ndarray, "d"]:
    """The mean of log10 over the rows, NaN where one is 0.

    >>> mean_log10([np.array([1.0, 0.0]), np.array([100.0, 1.0])])
    array([ 1., nan])
    """
    stacked = np.stack(rows)
    logs = np.full(stacked.shape, np.nan)
    np.log10(stacked, out=logs, where=stacked > 0)
    mean: Float[np.ndarray, "d"] = logs.mean(axis=0)
    return mean


def as_table(panels: Sequence[MeasuredPanel], spheres: Sequence[Sphere] = ()) -> dict[str, Any]:
    """Everything that is drawn but the points on the spheres, ready for JSON; logarithms to 3 decimals."""
    return {
        "eigenvalues": "absolute" if panels[0].absolute else "relative to the largest",
        "log10_threshold": THRESHOLD,
        "log10_thresholds": _rounded(THRESHOLDS),
        "settings": [_setting(panel, one) for panel in panels for one in panel.curves],
        "spheres": [
            {
                "title": sphere.title,
                "seed": sphere.seed,
                "points": len(sphere.points),
                "variance_held": round(sphere.share, 4),
            }
            for sphere in spheres
        ],
    }


def _setting(panel: MeasuredPanel, one: Measured) -> dict[str, Any]:
    accuracy = Statistic.of([float(lookup(run.records[-1], "evaluation", "accuracy")) for run in one.curve.runs])
    counts, local = Statistic.of(one.significant()), Statistic.of(one.local_significant())
    return {
        "panel": panel.title,
        "curve": one.curve.name,
        "seeds": [run.seed for run in one.curve.runs],
        "accuracy": accuracy and asdict(accuracy),
        "significant": counts and asdict(counts),
        "significant_local": local and asdict(local),
        "significant_by_threshold": _rounded(one.by_threshold()),
        "log10_global": _rounded(one.mean),
        "log10_local": None if one.local_mean is None else _rounded(one.local_mean),
    }


def _rounded(values: Float[np.ndarray, "n"]) -> list[float | None]:
    """JSON has no NaN."""
    return [round(float(value), 3) if np.isfinite(value) else None for value in values]
