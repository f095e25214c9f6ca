"""One experiment as a value, and what it takes to run it: data, partition, initial model, engine, evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Protocol

import torch
from torch import Tensor, nn

from decollapse.aggregate import Aggregator
from decollapse.aggregate.mean import WeightedMean
from decollapse.algorithm import Algorithm
from decollapse.client import ClientUpdate
from decollapse.compression import Float16Updates
from decollapse.core import ClientResult, ModelState, derive_seed
from decollapse.data import Dataset, DataSource, Dirichlet, FederatedData, Partition
from decollapse.diagnosis.local import Probe
from decollapse.engines import Clients, Engine, EngineSettings, Federation, placed
from decollapse.engines.process import Process
from decollapse.guard import GuardPolicy
from decollapse.held_out import WithTestSet
from decollapse.measurements import EvaluationSettings, Measurements, probe_of
from decollapse.models import ModelBuilder, SmallCNN
from decollapse.server import BroadcastingServer, ServerOptimizer
from decollapse.server.sgd import ServerSGD
from decollapse.server_state import ServerState
from decollapse.simulation import RoundRecord, simulate


@dataclass(frozen=True)
class Experiment:
    """A federated experiment: the schema of a recipe.

    Attributes:
        data: where the examples come from.
        partition: how they are dealt to the clients.
        num_clients: size of the federation, >= 1.
        cohort_size: clients asked a round; None asks all of them.
        model: what is trained.
        client: local training, the objective among it.
        aggregate: from many updates to one.
        server: from the aggregate to a step.
        rounds: communication rounds, >= 1.
        seed: partition, initial weights, cohorts and everything random on a client are functions of it.
        guard: what happens to an update with NaN, infinity or a wrong shape: `reject`, `abort` or `clip`.
        secure_aggregation: the server will see sums of updates only; refuses an aggregator that needs single ones.
        float16_updates: clients send their updates in float16, half the bytes; see `decollapse.compression`.
        evaluation: what is measured.
        engine: where clients run; of its settings, those that choose the arithmetic (dtype, device, threads, memory
            layout) change rounding, and no other changes the result.
    """

    data: DataSource = DataSource()
    partition: Partition = Dirichlet(alpha=0.1)
    num_clients: int = 10
    cohort_size: int | None = None
    model: ModelBuilder = SmallCNN(norm="batch")
    client: ClientUpdate = ClientUpdate()
    aggregate: Aggregator = WeightedMean()
    server: ServerOptimizer = ServerSGD()
    rounds: int = 10
    seed: int = 0
    guard: GuardPolicy = "reject"
    secure_aggregation: bool = False
    float16_updates: bool = False
    evaluation: EvaluationSettings = EvaluationSettings()
    engine: EngineSettings = Process()

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.num_clients < 1:
            raise ValueError(f"rounds and num_clients are at least 1, got {self.rounds} and {self.num_clients}.")
        if self.cohort_size is not None and not 1 <= self.cohort_size <= self.num_clients:
            raise ValueError(
                f"cohort_size is from 1 to num_clients = {self.num_clients}, got {self.cohort_size}; "
                "leave it out to ask every client."
            )
        if self.seed < 0:
            raise ValueError(f"a seed is 0 or more, got {self.seed}.")
        if self.secure_aggregation and self.aggregate.needs_single_updates:
            raise ValueError(
                f"under secure aggregation the server sees sums alone, and {type(self.aggregate).__name__} needs every "
                "update; use weighted_mean or normalized_mean, or set secure_aggregation to false."
            )
        if self.secure_aggregation and self.float16_updates:
            raise ValueError("secure aggregation has an encoding of its own; set float16_updates to false.")
        _ = self.algorithm  # raises where its slots do not fit together

    @property
    def algorithm(self) -> Algorithm:
        """The four slots."""
        return Algorithm(client=self.client, aggregate=self.aggregate, server=self.server)

    def with_algorithm(self, algorithm: Algorithm) -> Experiment:
        """The same experiment with another algorithm, all of its slots."""
        return replace(self, client=algorithm.client, aggregate=algorithm.aggregate, server=algorithm.server)


class DealtClients(Clients, Protocol):
    """The clients of a run."""

    def class_counts(self) -> Tensor | None:
        """How many training examples of each class each client holds; None where that is the clients' own affair."""
        ...


@dataclass(frozen=True, eq=False)
class Prepared:
    """An experiment with its data loaded and dealt, ready to run any number of times.

    Attributes:
        experiment: what was asked for.
        dataset: its data.
        clients: the same, dealt; or the clients of a real federation, who keep theirs.
    """

    experiment: Experiment
    dataset: Dataset
    clients: DealtClients

    @cached_property
    def build_model(self) -> Callable[[], nn.Module]:
        """Draws a model; pickles."""
        return partial(self.experiment.model, self.dataset.input_shape, self.dataset.num_classes)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of every example and label: the same data, and no others, give the same."""
        digest = hashlib.blake2b(digest_size=16)
        dataset = self.dataset
        named = {
            "train_x": dataset.train_x,
            "train_y": dataset.train_y,
            "test_x": dataset.test_x,
            "test_y": dataset.test_y,
        }
        for name, tensor in (named | dict(dataset.train_columns)).items():
            digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()

    def initial_model(self) -> ModelState:
        """The weights every run with this seed and model starts from, whatever its algorithm."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed("model", self.experiment.seed))
            model = self.build_model()
        return ModelState.of(model.to(getattr(torch, self.experiment.engine.dtype)))

    def check(self) -> None:
        """Find what cannot work before anything is trained: in the model, in the client update, in the cohort.

        Raises:
            ValueError: the model lacks a part or layer that is named, nothing is left to train, or the aggregator
                cannot work with this cohort or local optimiser.
        """
        experiment, clients = self.experiment, WithTestSet(self.clients, self.dataset)
        with torch.random.fork_rng(devices=[]):
            experiment.client.check(placed(self.build_model(), experiment.engine), clients[clients.parts[0]])
        step_size = experiment.client.optimizer.step_size(1)
        result = ClientResult(0, 1, 1, delta={"w": torch.zeros(1)}, buffers={}, metrics={}, step_size=step_size)
        cohort = range(experiment.cohort_size or experiment.num_clients)
        aggregate = experiment.aggregate(replace(result, client=client) for client in cohort)
        if aggregate is not None and not isinstance(experiment.server, BroadcastingServer):  # SCAFFOLD wants more
            params = {"w": torch.zeros(1)}
            experiment.server.update(aggregate, experiment.server.init(params, num_clients=experiment.num_clients))

    def run(
        self,
        start: ServerState | None = None,
        *,
        watch: Callable[[Engine], Engine] = lambda engine: engine,
    ) -> Iterator[tuple[RoundRecord, ServerState]]:
        """Run to the last round, from the beginning or from a saved state.

        Args:
            start: the state to go on from; None begins with round 0.
            watch: wraps the engine, to see results as they come.
        """
        experiment, clients = self.experiment, WithTestSet(self.clients, self.dataset)
        with experiment.engine(Federation(self.build_model, clients)) as engine:
            measurements = self._measurements(engine, clients.parts)
            yield from simulate(
                experiment.algorithm,
                watch(Float16Updates(engine) if experiment.float16_updates else engine),
                start or self.initial_model(),
                num_clients=experiment.num_clients,
                rounds=experiment.rounds,
                seed=experiment.seed,
                cohort_size=experiment.cohort_size,
                guard=experiment.guard,
                evaluate=measurements.evaluate,
                measure=measurements.around,
                diagnose=measurements.diagnose,
                pool=partial(measurements.pool, seed=experiment.seed),
            )

    @cached_property
    def probe(self) -> Probe:
        """The test examples that local models are shown."""
        return probe_of(self.dataset, self.experiment.evaluation.probe_size)

    def _measurements(self, engine: Engine, parts: Sequence[int]) -> Measurements:
        experiment = self.experiment
        with torch.random.fork_rng(devices=[]):
            model = placed(self.build_model(), experiment.engine)
        return Measurements(
            experiment.evaluation,
            engine,
            parts,
            self.probe,
            self.dataset.test_groups,
            model,
            rounds=experiment.rounds,
            algorithm=experiment.algorithm,
            local=not experiment.secure_aggregation,
        )


def prepare(experiment: Experiment, dataset: Dataset | None = None) -> Prepared:
    """Load the data, if they are not given, and deal them.

    Raises:
        ValueError: the data are missing, damaged, or cannot be dealt as asked.
    """
    dataset = dataset or experiment.data.load()
    parts = experiment.partition(
        dataset.train_y, experiment.num_clients, seed=experiment.seed, columns=dataset.train_columns
    )
    return Prepared(experiment, dataset, FederatedData(dataset, parts))
