"""Where the features collapse: spectra of local models, measured where they are trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from decollapse.core import MEASURED, Broadcast, ClientCall, ClientData, ClientResult, ClientState
from decollapse.evaluation import evaluate
from decollapse.spectrum import Spectrum
from decollapse.tree import Tree


@dataclass(frozen=True, eq=False)
class Probe:
    """Examples that every model is shown, so that spectra can be compared; at least 5 a dimension, to be trusted.

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

    def spectrum(self, model: nn.Module) -> Spectrum | None:
        """The spectrum of the model's features in eval mode; None if one of them is NaN or infinite."""
        return evaluate(model, self.x, self.y, num_classes=self.num_classes, preprocess=self.preprocess).spectrum


@dataclass(frozen=True, eq=False)
class MeasureLocalSpectrum:
    """A client call around a client call: train, then measure the local model's features before it is averaged.

    Attributes:
        train: the client call that trains.
        probe: the examples to measure on.
    """

    train: ClientCall
    probe: Probe

    def __call__(
        self, model: nn.Module, data: ClientData, broadcast: Broadcast, state: ClientState
    ) -> tuple[ClientResult, ClientState]:
        """The result of `train`, with eigenvalues among its extras."""
        result, state = self.train(model, data, broadcast, state)
        spectrum = self.probe.spectrum(model)
        return replace(result, extras=result.extras | _as_tree(spectrum)), state


def measured_spectrum(measurements: Tree) -> Spectrum | None:
    """The spectrum in a client summary's measurements, if there is one."""
    if MEASURED + "covariance" not in measurements:
        return None
    return Spectrum(
        num_examples=int(measurements[MEASURED + "num_examples"]),
        num_dead=int(measurements[MEASURED + "num_dead"]),
        covariance=measurements[MEASURED + "covariance"],
        correlation=measurements[MEASURED + "correlation"],
    )


def _as_tree(spectrum: Spectrum | None) -> Tree:
    if spectrum is None:
        return {}
    return {
        MEASURED + "num_examples": torch.tensor(spectrum.num_examples),
        MEASURED + "num_dead": torch.tensor(spectrum.num_dead),
        MEASURED + "covariance": spectrum.covariance,
        MEASURED + "correlation": spectrum.correlation,
    }
