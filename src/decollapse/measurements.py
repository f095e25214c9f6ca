"""What a run measures between and inside its rounds, and how often: accuracy, spectra, the diagnosis."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from decollapse.algorithm import Algorithm
from decollapse.core import ClientCall, ModelState, Output, derive_seed
from decollapse.data import Dataset, Groups
from decollapse.diagnosis.federated import FederatedSpectrum, federated_spectrum
from decollapse.diagnosis.local import BUFFERS, FEATURES, SKETCH, SKETCH_SIZE, MeasureLocalModel, Probe
from decollapse.diagnosis.measure_features import MeasureFeatures
from decollapse.diagnosis.round import RoundDiagnosis, diagnose_round
from decollapse.engines import ClientError, Engine
from decollapse.evaluation import Evaluation, mean_evaluation
from decollapse.held_out import evaluate_in_parts
from decollapse.server_state import ServerState, own_models
from decollapse.simulation import ClientSummary
from decollapse.tree import Tree


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured, and how often. The last round is always measured in full.

    Attributes:
        every: rounds between two evaluations of the global model on the test set, >= 1.
        local_every: rounds between two diagnoses, for which the local models are measured, >= 1; 0 for never. Under
            secure aggregation, which hides local models, there are none.
        probe_size: test examples shown to the local models, drawn once; about 5 a feature dimension or more.
        batch_size: examples a forward pass; memory and speed only.
        federated_every: rounds between two federated spectra, of the cohort's own training examples under the global
            model, >= 1; 0 for never.
        federated: what the clients send for it.
    """

    every: int = 1
    local_every: int = 5
    probe_size: int = 400
    batch_size: int = 500
    federated_every: int = 0
    federated: MeasureFeatures = MeasureFeatures()

    def __post_init__(self) -> None:
        for name, least in (
            ("every", 1),
            ("local_every", 0),
            ("probe_size", 2),
            ("batch_size", 1),
            ("federated_every", 0),
        ):
            if (came := getattr(self, name)) < least:
                raise ValueError(f"{name} of evaluation is at least {least}, got {came}.")


def due(round: int, every: int, *, last: int) -> bool:
    """Whether what is measured `every` so many rounds is measured in this one: always in the last, never for 0.

    >>> [round for round in range(1, 13) if due(round, 5, last=12)]
    [5, 10, 12]
    """
    return every > 0 and (round % every == 0 or round == last)


@dataclass(frozen=True, eq=False)
class Measurements:
    """The functions that a simulation is given, see `simulate`; each returns None where its round is not due.

    Attributes:
        settings: what, and how often.
        engine: where the clients are, and the parts of the test set.
        parts: the numbers of these, see `WithTestSet`.
        probe: the test examples that local models are shown.
        groups: columns of the test set, for each value of which accuracy is measured.
        model: a scratch model, for the averaged one's diagnosis.
        rounds: the last round.
        algorithm: of the run.
        local: whether local models may be measured.
    """

    settings: EvaluationSettings
    engine: Engine
    parts: Sequence[int]
    probe: Probe
    groups: Mapping[str, Groups]
    model: nn.Module
    rounds: int
    algorithm: Algorithm
    local: bool

    def evaluate(self, server: ServerState) -> Evaluation | None:
        """The global model on the test set; where clients keep models of their own, the mean over these."""
        if not self._due(server.round, self.settings.every):
            return None
        alone = own_models(server, self.algorithm)
        if alone:
            found = mean_evaluation([self._on_test_set(state, server.round) for state in alone])
        else:
            found = self._on_test_set(server.evaluated(self.algorithm), server.round)
        return replace(found, by_column={name: found.of_groups(groups) for name, groups in self.groups.items()})

    def around(self, round: int) -> Callable[[ClientCall], ClientCall] | None:
        """What to wrap around the client call, so that local models are measured where they are trained."""
        due = self.local and self._due(round, self.settings.local_every)
        return partial(MeasureLocalModel, probe=self.probe) if due else None

    def diagnose(self, server: ServerState, clients: Sequence[ClientSummary]) -> RoundDiagnosis | None:
        """The averaged model beside the local ones it was made of."""
        measured = {client.client: client.measurements for client in clients if client.measurements}
        if not measured or own_models(server, self.algorithm):  # nothing is averaged there
            return None
        state = server.evaluated(self.algorithm)
        state.load_into(self.model)
        averaged = self.probe.output(self.model)
        if averaged is None:
            return None
        weights = {client.client: client.num_examples for client in clients}
        return diagnose_round(averaged, state, _of_this_model(measured, averaged, state), weights, self.probe)

    def pool(self, server: ServerState, cohort: Sequence[int], *, seed: int) -> FederatedSpectrum | None:
        """The spectrum of the cohort's own examples; with a warning where a client's features are not finite."""
        if not self._due(server.round, self.settings.federated_every) or own_models(server, self.algorithm):
            return None
        model = server.evaluated(self.algorithm)
        try:
            return federated_spectrum(
                self.engine, model, cohort, seed=seed, round=server.round, measure=self.settings.federated
            )
        except ClientError as error:  # nothing of the run is lost by it
            warnings.warn(f"no federated spectrum: {error}", stacklevel=2)
            return None

    def _due(self, round: int, every: int) -> bool:
        return due(round, every, last=self.rounds)

    def _on_test_set(self, state: ModelState, round: int) -> Evaluation:
        return evaluate_in_parts(self.engine, state, self.parts, round=round, batch_size=self.settings.batch_size)


def probe_of(dataset: Dataset, size: int) -> Probe:
    """A fixed random part of the test set, at most `size` examples: the same for every run on these data."""
    generator = torch.Generator().manual_seed(derive_seed("probe"))
    chosen = torch.randperm(len(dataset.test_y), generator=generator)[:size]
    return Probe(dataset.test_x[chosen], dataset.test_y[chosen], dataset.num_classes, dataset.preprocess)


def _of_this_model(measured: Mapping[int, Tree], averaged: Output, model: ModelState) -> dict[int, Tree]:
    """The measurements that can be compared with the averaged model's; with a warning for each that cannot."""
    size = min(sum(leaf.numel() for leaf in model.params.values()), SKETCH_SIZE)
    expected = {FEATURES: averaged.features.shape, SKETCH: torch.Size([size])}
    expected |= {BUFFERS + name: leaf.shape for name, leaf in model.buffers.items()}
    fitting = {}
    for client, found in measured.items():
        wrong = [name for name, leaf in found.items() if leaf.shape != expected.get(name, leaf.shape)]
        if wrong:
            shapes = f"shape {tuple(found[wrong[0]].shape)}, expected {tuple(expected[wrong[0]])}"
            warnings.warn(f"client {client} is left out of the diagnosis: {wrong[0]!r} has {shapes}.", stacklevel=3)
        else:
            fitting[client] = found
    return fitting
