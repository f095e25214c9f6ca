"""Local models, measured where they are trained: on one probe, before they are averaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from decollapse.core import MEASURED, Broadcast, ClientCall, ClientData, ClientResult, ClientState, Output
from decollapse.evaluation import outputs
from decollapse.feature_statistics import FeatureStatistics
from decollapse.spectrum import Spectrum
from decollapse.tree import Tree

FEATURES = MEASURED + "features"
SKETCH = MEASURED + "sketch"
BUFFERS = MEASURED + "buffers/"
SKETCH_SIZE = 4096
"""Numbers that stand for a whole update in a cosine, which they give to about 1 / sqrt(4096), 0.016."""


@dataclass(frozen=True, eq=False)
class Probe:
    """Examples that every model is shown, so that their features can be compared; at least 5 a dimension is best.

    Attributes:
        x: as in `ClientData`.
        y: labels.
        num_classes: of the data set.
        preprocess: as in `ClientData`.
    """

    x: Tensor
    y: Tensor
    num_classes: int
    preprocess: Callable[[Tensor], Tensor]

    def output(self, model: nn.Module) -> Output | None:
        """Logits and features of the model in eval mode; None if one of them is NaN or infinite."""
        output = outputs(model, self.x, preprocess=self.preprocess)
        finite = output.features.isfinite().all() and output.logits.isfinite().all()
        return output if finite else None

    def spectrum(self, model: nn.Module) -> Spectrum | None:
        """The spectrum of the model's features; None if one of them is NaN or infinite."""
        output = self.output(model)
        return None if output is None else Spectrum.of(FeatureStatistics.of(output.features))


@dataclass(frozen=True, eq=False)
class MeasureLocalModel:
    """A client call around a client call: train, then measure the local model before it is averaged.

    Attributes:
        train: the client call that trains.
        probe: the examples to measure on.
    """

    train: ClientCall
    probe: Probe

    def __call__(
        self, model: nn.Module, data: ClientData, broadcast: Broadcast, state: ClientState
    ) -> tuple[ClientResult, ClientState]:
        """The result of `train`, with what was measured among its extras."""
        result, state = self.train(model, data, broadcast, state)
        output = self.probe.output(model)
        if output is None:
            return result, state
        spectrum = Spectrum.of(FeatureStatistics.of(output.features))
        right = (output.logits.argmax(dim=1) == self.probe.y).double().mean()
        measured: Tree = {
            FEATURES: output.features.float(),
            SKETCH: sketch(result.delta),
            MEASURED + "accuracy": right,
            MEASURED + "num_examples": torch.tensor(spectrum.num_examples),
            MEASURED + "num_dead": torch.tensor(spectrum.num_dead),
            MEASURED + "covariance": spectrum.covariance,
            MEASURED + "correlation": spectrum.correlation,
        }
        buffers = {BUFFERS + name: leaf for name, leaf in result.buffers.items() if leaf.is_floating_point()}
        return replace(result, extras=result.extras | measured | buffers), state


def malformed(measurements: Mapping[str, Tensor]) -> str | None:
    """How a client's measurements are not what `MeasureLocalModel` sends, in words; None where they are, or are none.

    >>> malformed({FEATURES: torch.zeros(5)})
    "'measured/features' has shape (5,), expected two dimensions"
    """
    features = measurements.get(FEATURES)
    if features is None:
        return None
    if features.ndim != 2:
        return f"{FEATURES!r} has shape {tuple(features.shape)}, expected two dimensions"
    width = (features.shape[1],)
    expected = {"accuracy": (), "num_examples": (), "num_dead": (), "covariance": width, "correlation": width}
    for name, shape in ((MEASURED + name, shape) for name, shape in expected.items()):
        if name not in measurements:
            return f"the measurements lack {name!r}"
        if measurements[name].shape != shape:
            return f"{name!r} has shape {tuple(measurements[name].shape)}, expected {shape}"
    if SKETCH not in measurements or measurements[SKETCH].ndim != 1:
        return f"the measurements have no {SKETCH!r} of one dimension"
    return None


def measured_spectrum(measurements: Mapping[str, Tensor]) -> Spectrum | None:
    """The spectrum in a client's measurements, if there is one."""
    if MEASURED + "covariance" not in measurements:
        return None
    return Spectrum(
        num_examples=int(measurements[MEASURED + "num_examples"]),
        num_dead=int(measurements[MEASURED + "num_dead"]),
        covariance=measurements[MEASURED + "covariance"],
        correlation=measurements[MEASURED + "correlation"],
    )


def measured_accuracy(measurements: Mapping[str, Tensor]) -> float | None:
    """The local model's accuracy on the probe, if it was measured."""
    return float(measurements[MEASURED + "accuracy"]) if MEASURED + "accuracy" in measurements else None


def lasting(measurements: Tree) -> Tree:
    """What is kept of a client's measurements after the round: numbers, not features or buffers."""
    passing = (FEATURES, SKETCH, BUFFERS)
    return {name: leaf for name, leaf in measurements.items() if not name.startswith(passing)}


def sketch(update: Tree) -> Tensor:
    """Every number of `update`, with a sign, added into one of `SKETCH_SIZE` bins: inner products survive on average.

    The count sketch of Charikar, Chen, Farach-Colton, "Finding Frequent Items in Data Streams", ICALP 2002. The same
    bins and signs for every client. Updates that are no longer than the sketch are kept as they are.
    """
    flat = torch.cat([leaf.flatten() for leaf in update.values()]).double() if update else torch.zeros(0)
    flat = flat.cpu()
    if len(flat) <= SKETCH_SIZE:
        return flat
    generator = torch.Generator().manual_seed(0)
    bins = torch.randint(SKETCH_SIZE, (len(flat),), generator=generator)
    signs = torch.randint(2, (len(flat),), generator=generator) * 2 - 1
    return torch.zeros(SKETCH_SIZE, dtype=flat.dtype).index_add_(0, bins, flat * signs)
