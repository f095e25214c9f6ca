"""Features of test examples on the unit sphere: the three leading principal directions, every vector at length 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from decollapse.data import Dataset, DataSource
from decollapse.experiment import prepare
from decollapse.figures.panels import Panel
from decollapse.report.view import RunView
from decollapse.runs import RunFolder
from decollapse.server_state import own_models

if TYPE_CHECKING:
    from jaxtyping import Float, Int

MAX_POINTS = 500
"""More cannot be told apart, and make a heavy page."""


@dataclass(frozen=True, eq=False)
class Sphere:
    """Features of one run's last global model.

    Attributes:
        title: which run.
        seed: its seed.
        points: directions of length 1.
        labels: classes of the examples.
        classes: their names.
        share: of the features' variance, from 0 to 1, that the three directions hold.
        num_examples: the directions are those of this many.
    """

    title: str
    seed: int
    points: Float[Tensor, "n 3"]
    labels: Int[Tensor, "n"]
    classes: tuple[str, ...]
    share: float
    num_examples: int


def spheres_of(panels: Sequence[Panel], *, data: str | None = None) -> tuple[list[Sphere], list[str]]:
    """The most equal clients and the most unequal ones of the first panel, and the most unequal ones of the last.

    Of each the run with the first seed. The second value is a sentence for each that cannot be drawn.

    Args:
        panels: as in the other figures.
        data: where the data are now, if not where they were when the runs were trained.
    """
    chosen = [(panels[0], panels[0].curves[-1]), (panels[0], panels[0].curves[0]), (panels[-1], panels[-1].curves[0])]
    found: dict[str, Sphere] = {}
    notes: dict[str, str] = {}
    datasets: dict[DataSource, Dataset] = {}
    for panel, curve in chosen:
        title = ", ".join(word for word in (curve.name, panel.title) if word)
        try:
            found[title] = sphere_of_run(curve.runs[0], title, data=data, datasets=datasets)
        except ValueError as error:
            notes[title] = f"There is no sphere of {title}: {error}"
    return list(found.values()), list(notes.values())


def unit_sphere(features: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n 3"], float]:
    """Centre, project onto the three leading principal directions, scale to length 1; and the share of the variance.

    The sign of a direction is free: here its largest coordinate is positive, so that it is the same on every machine.

    Raises:
        ValueError: there are fewer than 3 dimensions or 4 examples, or the features do not vary.

    >>> points, share = unit_sphere(torch.tensor([[3.0, 0, 0], [-3, 0, 0], [0, 2, 0], [0, -2, 0], [0, 0, 0]]))
    >>> points[:3].tolist(), share
    ([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], 1.0)
    """
    if features.ndim != 2 or features.shape[1] < 3 or len(features) < 4:
        raise ValueError(f"a sphere needs at least 4 examples of 3 features, got shape {tuple(features.shape)}.")
    centred = features.double() - features.double().mean(dim=0)
    _, values, directions = torch.linalg.svd(centred, full_matrices=False)
    if not values[0] > 0:
        raise ValueError("the features are the same for every example.")
    leading = directions[:3]
    leading = leading * leading.gather(1, leading.abs().argmax(dim=1, keepdim=True)).sign()
    points = torch.nn.functional.normalize(centred @ leading.T, dim=1)
    return points, float(values[:3].square().sum() / values.square().sum())


def sphere_of_run(
    run: RunView, title: str, *, data: str | None = None, datasets: dict[DataSource, Dataset] | None = None
) -> Sphere:
    """The features of the probe under the run's last global model.

    Args:
        run: a run with its checkpoint.
        title: what to call it.
        data: see `spheres_of`.
        datasets: those loaded before; what is loaded here is added.

    Raises:
        ValueError: there is no checkpoint or no global model, the data are others, or features fill no sphere.
    """
    datasets = {} if datasets is None else datasets
    folder = RunFolder.open(run.folder)
    experiment = folder.experiment
    state = folder.load()
    if state is None:
        raise ValueError(f"{run.folder} has no checkpoint.")
    if own_models(state, experiment.algorithm):
        raise ValueError(f"in {run.folder} clients keep models of their own, and there is no averaged one.")
    source = experiment.data if data is None else replace(experiment.data, name=data)
    if source not in datasets:
        datasets[source] = source.load()
    prepared = prepare(experiment, datasets[source])
    if folder.description.get("fingerprint") not in (None, prepared.fingerprint):
        raise ValueError(f"the data {source.name!r} are not those {run.folder} was trained on.")
    with torch.random.fork_rng(devices=[]):
        model = prepared.build_model().to(getattr(torch, experiment.engine.dtype))
    state.evaluated(experiment.algorithm).load_into(model)
    output = prepared.probe.output(model)
    if output is None:
        raise ValueError(f"features of {run.folder} are not finite numbers.")
    points, share = unit_sphere(output.features)
    kept = slice(MAX_POINTS)
    return Sphere(
        title=title,
        seed=experiment.seed,
        points=points[kept],
        labels=prepared.probe.y[kept],
        classes=prepared.dataset.classes,
        share=share,
        num_examples=len(points),
    )
