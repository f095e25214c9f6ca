"""The spectrum of all clients' features under one model, without a feature leaving a client.

    each client:  features of its own training examples, in eval mode  ->  sums
    the server:   adds the sums, in any order                          ->  the spectrum of the pooled features

Exact: the result is the pooled computation, up to rounding; or, for wide features, a sketch of it with a bound on what
it misses (`decollapse.diagnosis.sketch`). What leaves a client, how large it is, and what can be inferred from it, is
written where it is made: `decollapse.diagnosis.measure_features`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from decollapse import tree
from decollapse.core import MEASURED, Broadcast, ClientResult, ModelState
from decollapse.diagnosis.measure_features import ORIGIN, MeasureFeatures, statistics_of
from decollapse.diagnosis.neural_collapse import NeuralCollapse, neural_collapse_of
from decollapse.diagnosis.sketch import Sketch, SketchedSpectrum, sketched_spectrum
from decollapse.feature_statistics import FeatureStatistics
from decollapse.privacy.private_statistics import StatisticsPrivacy
from decollapse.spectrum import Spectrum
from decollapse.tree import Tree

if TYPE_CHECKING:
    from jaxtyping import Float

    from decollapse.engines import Engine


@dataclass(frozen=True, eq=False)
class FederatedStatistics:
    """The feature statistics of a federation and what they cost.

    Attributes:
        statistics: of the examples of all clients together, those that `min_examples` keeps back excepted.
        num_clients: clients that answered.
        bytes_per_client: sent by each of them, in all passes.
        seconds: wall-clock time.
    """

    statistics: FeatureStatistics
    num_clients: int
    bytes_per_client: int
    seconds: float


@dataclass(frozen=True, eq=False)
class FederatedSpectrum:
    """The spectrum of a federation's features and what it cost.

    Attributes:
        spectrum: exact, or with a sketch a lower bound on each eigenvalue.
        covariance_missing: what the sketch misses of the sum of the covariance's eigenvalues; 0 without a sketch.
        correlation_missing: the same of the correlation's.
        neural_collapse: of the pooled features, without NC3 and NC4; None without `per_class` or with a sketch.
        num_clients: clients that answered.
        bytes_per_client: sent by each of them, in all passes.
        seconds: wall-clock time.
        privacy: of any example of a client, and the noise that it costs; None where no noise was added.
    """

    spectrum: Spectrum
    covariance_missing: float
    correlation_missing: float
    neural_collapse: NeuralCollapse | None
    num_clients: int
    bytes_per_client: int
    seconds: float
    privacy: StatisticsPrivacy | None = None


def federated_statistics(
    engine: Engine,
    model: ModelState,
    clients: Sequence[int],
    *,
    seed: int,
    round: int = 0,
    measure: MeasureFeatures = MeasureFeatures(),
    origin: Float[Tensor, "d"] | None = None,
    passes: int = 1,
) -> FederatedStatistics:
    """Count, mean and scatter of the features of all clients, as if they were pooled.

    Args:
        engine: where the clients run.
        model: whose features are measured.
        clients: distinct client numbers, at least one.
        seed: of the run; the measurement itself draws nothing.
        round: the model is of; named where a client fails.
        measure: the client call with its options, without a sketch.
        origin: the point that features are counted from, sent to all clients; zeros if None. Relative rounding error of
            a variance: about 1e-16 (|mean - origin| / std)^2; take last round's mean where means are large.
        passes: 1, or 2 to ask for the mean first and take it, rounded to float32, as the origin.

    Raises:
        ClientError: a client's features are not finite or not (n, d); names the client.
        ValueError: clients' features differ in width, there is no client, or one comes twice.

    >>> from decollapse.data import FederatedData, IID, load_dataset
    >>> from decollapse.engines import Federation
    >>> from decollapse.engines.serial import Serial
    >>> from decollapse.models import SmallCNN
    >>> digits = load_dataset("digits", train_size=200)
    >>> build_model = lambda: SmallCNN(channels=(4, 8), features=16)((1, 8, 8), 10)
    >>> federation = Federation(build_model, FederatedData(digits, IID()(digits.train_y, 5, seed=0)))
    >>> with Serial()(federation) as engine:
    ...     found = federated_statistics(engine, ModelState.of(build_model()), range(5), seed=0)
    >>> found.statistics.num_examples, found.statistics.num_features, found.bytes_per_client  # 1 + 16 + 136 numbers
    (200, 16, 1224)
    """
    if measure.sketch is not None:
        raise ValueError("a sketch has no d x d statistics; take federated_spectrum, or leave the sketch out.")
    started = time.perf_counter()
    sums, origin, sent, num_clients = _measured(engine, Broadcast(round, model, seed), clients, measure, origin, passes)
    statistics = statistics_of(sums, origin=origin, noisy=measure.privacy is not None)
    return FederatedStatistics(statistics, num_clients, sent, time.perf_counter() - started)


def federated_spectrum(
    engine: Engine,
    model: ModelState,
    clients: Sequence[int],
    *,
    seed: int,
    round: int = 0,
    measure: MeasureFeatures = MeasureFeatures(),
    origin: Float[Tensor, "d"] | None = None,
    passes: int = 1,
) -> FederatedSpectrum:
    """The spectrum of the features of all clients, as if they were pooled; or a sketch of it, with what it misses.

    Arguments and errors are those of `federated_statistics`, but `measure` may have a sketch.
    """
    started = time.perf_counter()
    sums, origin, sent, num_clients = _measured(engine, Broadcast(round, model, seed), clients, measure, origin, passes)
    classes, privacy = None, None
    if measure.sketch is None:
        statistics = statistics_of(sums, origin=origin, noisy=measure.privacy is not None)
        found = SketchedSpectrum(Spectrum.of(statistics), 0.0, 0.0)
        classes = neural_collapse_of(statistics) if int((statistics.counts > 0).sum()) > 1 else None
        if measure.privacy is not None:
            privacy = measure.privacy.of_sum(
                num_clients=num_clients, num_features=statistics.num_features, num_examples=statistics.num_examples
            )
    else:
        found = sketched_spectrum(sums, measure.sketch, origin=origin)
    return FederatedSpectrum(
        found.spectrum,
        found.covariance_missing,
        found.correlation_missing,
        classes,
        num_clients=num_clients,
        bytes_per_client=sent,
        seconds=time.perf_counter() - started,
        privacy=privacy,
    )


def add_sums(results: Iterable[ClientResult]) -> Tree:
    """The total of what `MeasureFeatures` measured on each client; holds the sums of one client beside it.

    Raises:
        ValueError: there is no result, one is not finite, or clients' features differ in width.
    """
    total: Tree = {}
    first = -1
    for result in results:
        sums = tree.under(result.extras, MEASURED)
        if not all(bool(leaf.isfinite().all()) for leaf in sums.values()):
            raise ValueError(
                f"client {result.client} sent sums with NaN or infinity; leave it out, or measure another model."
            )
        if total:
            _check_alike(result.client, sums, first, total)
        else:
            first = result.client
        total = tree.add(total, sums) if total else sums
    if not total:
        raise ValueError("a federated spectrum needs the sums of at least one client, got none.")
    return total


def _check_alike(client: int, sums: Tree, first: int, total: Tree) -> None:
    came, expected = ({name: tuple(leaf.shape) for name, leaf in side.items()} for side in (sums, total))
    if came["sum"][1:] != expected["sum"][1:]:
        raise ValueError(
            f"client {client} has features of width {came['sum'][1]}, client {first} of {expected['sum'][1]}; "
            "all must measure the same layer of the same model."
        )
    if came != expected:
        raise ValueError(
            f"client {client} sent sums of shapes {came}, client {first} of {expected}; "
            "all must run the same MeasureFeatures."
        )


def _measured(
    engine: Engine,
    broadcast: Broadcast,
    clients: Sequence[int],
    measure: MeasureFeatures,
    origin: Tensor | None,
    passes: int,
) -> tuple[Tree, Tensor | None, int, int]:
    """The clients' total, the origin it is counted from, the bytes that each client sent, and how many did."""
    if passes not in (1, 2):
        raise ValueError(f"passes must be 1 or 2, got {passes}.")
    if len(set(clients)) < len(clients):
        raise ValueError(f"each client counts once, but one comes twice in {list(clients)}.")
    before = 0
    if passes == 2:
        means = replace(measure, sketch=Sketch(size=0))
        sums, _, before, _ = _measured(engine, broadcast, clients, means, origin, passes=1)
        mean = sums["sum"].sum(dim=0) / sums["count"].sum().clamp(min=1)
        origin = (mean if origin is None else mean + origin).float()
    broadcast = replace(broadcast, extras={} if origin is None else {ORIGIN: origin})
    answered: list[int] = []

    def sums_of_clients() -> Iterator[ClientResult]:
        for result, _ in engine.run(measure, broadcast, clients, {}):
            if result.failure is None:
                answered.extend(result.clients)
                yield result

    total = add_sums(sums_of_clients())
    return total, origin, before + sum(leaf.nbytes for leaf in total.values()), len(answered)
