"""How long runs will take: local steps and evaluations of the very models, timed on this machine, times their number.

    epoch(n) = step * ceil(n / B) + example * n          a pass over n examples in batches of B
    client(n) = start + first * n + epochs * epoch(n)    `first`: what the first pass costs more, such as MOON's
                                                         features of frozen models, kept for the passes after it
    run = rounds * sum of the cohort's clients + evaluations + diagnoses

Two sizes of client and one or two epochs give the four numbers. What is timed beside each other, as the runs will be,
shares memory and cores as they will.
"""

from __future__ import annotations

import heapq
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from decollapse.data import Dataset
from decollapse.data.federated import FederatedData
from decollapse.engines import Federation
from decollapse.experiment import Experiment, Prepared
from decollapse.held_out import WithTestSet, evaluate_in_parts
from decollapse.measurements import due
from decollapse.reproduce.training import choose_gpu
from decollapse.server_state import ServerState
from decollapse.spectrum import Spectrum

TURNS, LEAST, MOST = 3, 0.1, 10.0
"""A timing is repeated at least so often, and for so many seconds, but not beyond the most."""


@dataclass(frozen=True)
class Pace:
    """Seconds on one core, or one GPU, beside others at work.

    Attributes:
        start: of a client that begins.
        first: of an example in the first local epoch, beyond what it takes in each.
        step: of a local step, whatever the size of the batch.
        example: of an example in a local step.
        forward: of an example evaluated.
        spectrum: of the eigenvalues of a set of features.
        process: of a run beside its rounds: its process, its model, its files.
    """

    start: float
    first: float
    step: float
    example: float
    forward: float
    spectrum: float
    process: float = 0.0

    @classmethod
    def mean(cls, paces: Sequence[Pace]) -> Pace:
        """The mean of several timings of the same."""
        return cls(*np.mean([astuple(pace) for pace in paces], axis=0).tolist())

    def client(self, n: NDArray[np.int64], *, epochs: int, batch_size: int) -> NDArray[np.float64]:
        """Seconds of clients with `n` examples each."""
        epoch = self.step * np.ceil(n / batch_size) + self.example * n
        return np.asarray(self.start + self.first * n + epochs * epoch)

    def run(self, experiment: Experiment, sizes: NDArray[np.int64], num_test: int, *, done: int | None) -> float:
        """Seconds of what is missing of a run.

        Args:
            experiment: the run.
            sizes: examples of each client.
            num_test: examples of the test set.
            done: rounds that are done; None where not even the initial model was evaluated.
        """
        every, local_every = experiment.evaluation.every, experiment.evaluation.local_every
        rounds = range(0 if done is None else done + 1, experiment.rounds + 1)
        trained = sum(round > 0 for round in rounds)
        evaluated = sum(due(round, every, last=experiment.rounds) for round in rounds)
        diagnosed = sum(round > 0 and due(round, local_every, last=experiment.rounds) for round in rounds)
        clients = self.client(sizes, epochs=experiment.client.epochs, batch_size=experiment.client.batch_size)
        cohort = experiment.cohort_size or experiment.num_clients
        probe = min(experiment.evaluation.probe_size, num_test)
        return float(
            self.process
            + trained * cohort * clients.mean()
            + evaluated * (num_test * self.forward + self.spectrum)
            + diagnosed * (cohort + 1) * (probe * self.forward + self.spectrum)
        )


@dataclass(frozen=True)
class Timing:
    """A pace, and the seconds that it took to find out."""

    pace: Pace
    seconds: float


@dataclass(frozen=True, eq=False)
class MeasurePace:
    """Tells the pace of an experiment's local training and evaluation; see `side_by_side.Work`.

    Attributes:
        experiment: whose.
        dataset: its data, in shared memory.
    """

    experiment: Experiment
    dataset: Dataset = field(repr=False)

    def __call__(self, place: int, tell: Callable[[Timing], None]) -> None:
        """Measure, and tell."""
        choose_gpu(place)
        began = time.perf_counter()
        pace = measured_pace(self.experiment, self.dataset)
        tell(Timing(pace, time.perf_counter() - began))


def measured_pace(experiment: Experiment, dataset: Dataset) -> Pace:
    """Time a client with two full batches and one with a quarter of a batch, for one and for two local epochs."""
    batch_size = max(4, min(experiment.client.batch_size, len(dataset.train_y) // 3))
    large, small = 2 * batch_size, batch_size // 4 + 1
    order = np.arange(large + small)
    prepared = Prepared(experiment, dataset, FederatedData(dataset, [order[:large], order[large:]]))
    everyone = WithTestSet(prepared.clients, dataset)
    with experiment.engine(Federation(prepared.build_model, everyone)) as engine:
        server = ServerState.initial(prepared.initial_model(), experiment.algorithm, num_clients=2)
        broadcast = server.broadcast(experiment.algorithm, seed=experiment.seed)
        calls = [replace(experiment.client, epochs=epochs) for epochs in (1, 2)]
        # Warms up, and gives terms that compare with a client's last model one to compare with.
        states = {result.client: state for result, state in engine.run(calls[0], broadcast, [0, 1], {})}

        def passes(client: int) -> tuple[float, float]:
            """Seconds of a client with one epoch, and of an epoch after the first."""
            once, twice = _timed(
                *(lambda call=call: list(engine.run(call, broadcast, [client], states)) for call in calls)
            )
            # However noisy: a later pass saves at most the frozen models' features.
            return once, min(max(twice - once, once / 3), once)

        (large_once, large_epoch), (small_once, small_epoch) = passes(0), passes(1)
        part = everyone.parts[:1]
        evaluated = evaluate_in_parts(engine, server.model, part, round=0)
        (evaluating,) = _timed(lambda: evaluate_in_parts(engine, server.model, part, round=0))
        features = evaluated.statistics
        (spectrum,) = (0.0,) if features is None else _timed(lambda: Spectrum.of(features))
    start, first = _line((small, large), (small_once - small_epoch, large_once - large_epoch))
    # Of two full batches, the half is a step and `batch_size` examples.
    step, example = _line((small, batch_size), (small_epoch, large_epoch / 2))
    return Pace(start, first, step, example, evaluating / evaluated.num_examples, spectrum)


def _line(x: tuple[int, int], y: Sequence[float]) -> tuple[float, float]:
    """Where the line through two points begins, and its slope; neither is below 0, whatever noise there is."""
    slope = max(0.0, (y[1] - y[0]) / (x[1] - x[0]))
    begin = y[1] - slope * x[1]
    return (begin, slope) if begin >= 0 else (0.0, max(0.0, y[1]) / x[1])


def _timed(*works: Callable[[], object]) -> list[float]:
    """Seconds of each piece of work, the middle ones of a few turns; they take turns, to have the same luck."""
    turns: list[list[float]] = []
    while (len(turns) < TURNS or sum(map(sum, turns)) < LEAST) and sum(map(sum, turns)) < MOST:
        turns.append([_seconds(work) for work in works])
    return [statistics.median(each) for each in zip(*turns, strict=True)]


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def makespan(seconds: Sequence[float], *, at_once: int) -> float:
    """When the last of several pieces of work is done, begun in order, each as soon as there is room.

    >>> makespan([3.0, 1.0, 1.0, 1.0], at_once=2)
    3.0
    """
    free = [0.0] * at_once
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)
