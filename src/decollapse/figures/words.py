"""The titles and captions of the figures: what is drawn, in a sentence or two each."""

from __future__ import annotations

from collections.abc import Sequence

from decollapse.figures.numbers import THRESHOLD, MeasuredPanel
from decollapse.figures.sphere import Sphere

AXIS = {True: "log₁₀ of the eigenvalue", False: "log₁₀ (eigenvalue / largest)"}
"""Of eigenvalues; by whether they are absolute."""

TITLES = {
    "global": "Spectra of the global model",
    "local": "Spectra of the local models",
    "significant": "Significant dimensions",
    "sphere": "Features on the unit sphere",
}
"""Of the figures, in order; the keys name their files."""


def threshold(panels: Sequence[MeasuredPanel]) -> str:
    """Above what a dimension is significant."""
    return f"{10.0**THRESHOLD:g}" + ("" if panels[0].absolute else " of the largest")


def captions(panels: Sequence[MeasuredPanel], spheres: Sequence[Sphere]) -> dict[str, str]:
    """A caption for each figure, by its key."""
    scale = "" if panels[0].absolute else ", each spectrum divided by its largest"
    counts = {len(one.spectra) for panel in panels for one in panel.curves}
    over = _seeds(counts)
    spread = "" if counts == {1} else " and standard deviation"
    return {
        "global": "Eigenvalues of the covariance of the global model's features of the test set after the last round"
        f"{scale}; geometric mean over {over}. Dashed: the threshold of a significant dimension.",
        "local": "The same of the local models, after the last round's training and before they are averaged, on a "
        f"fixed part of the test set; geometric mean over clients and {over}.",
        "significant": f"Eigenvalues of the global model above {threshold(panels)}: mean{spread} over {over}. Beside "
        "it the mean for every threshold.",
        "sphere": sphere_caption(spheres),
    }


def sphere_caption(spheres: Sequence[Sphere]) -> str:
    """What the points are, and how much of the features they show."""
    if not spheres:
        return ""
    shares = "; ".join(f"{sphere.title}: {100 * sphere.share:.0f} %" for sphere in spheres)
    points, examples, seeds = (
        " or ".join(map(str, sorted(set(values))))
        for values in zip(*((len(one.points), one.num_examples, one.seed) for one in spheres), strict=True)
    )
    return (
        f"Features of {points} test examples after the last round (seed {seeds}), centred, projected onto the three "
        f"leading principal directions of {examples}, and scaled to length 1; a colour is a class. Of the "
        f"variance, the three directions hold: {shares}."
    )


def _seeds(counts: set[int]) -> str:
    least, most = min(counts), max(counts)
    if most == 1:
        return "1 seed"
    return f"{most} seeds" if least == most else f"{least} to {most} seeds"
