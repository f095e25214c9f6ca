"""Federated training on one machine: a run is a generator of rounds.

    cohort    = sample_cohort(...)                  a function of (seed, round)
    results   = engine.run(client, broadcast, ...)  the only place where something happens elsewhere
    aggregate = algorithm.aggregate(results)        unusable results never get here
    step      = algorithm.server.update(aggregate)
    params   += step;  buffers by policy
    shared    = what terms make of the mean of what their clients sent: part of the next broadcast

Printing, saving and stopping happen outside, between two rounds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from decollapse import tree
from decollapse.aggregate import NoisyAggregator
from decollapse.algorithm import Algorithm
from decollapse.buffers import Recalibrate
from decollapse.core import MEASURED, Broadcast, ClientCall, ClientResult, ClientState, ModelState, derive_seed
from decollapse.diagnosis.federated import FederatedSpectrum
from decollapse.diagnosis.local import lasting, malformed
from decollapse.diagnosis.round import RoundDiagnosis
from decollapse.engines import Engine
from decollapse.engines.traffic import Traffic, traffic_of
from decollapse.evaluation import Evaluation
from decollapse.guard import GuardPolicy, Rejection, guarded
from decollapse.server_state import ServerState
from decollapse.term_states import shared_by
from decollapse.tree import Tree


@dataclass(frozen=True, eq=False)
class ClientSummary:
    """What a round record keeps of one client's result.

    Attributes:
        client: its number.
        num_examples: its training examples.
        num_steps: local optimiser steps.
        metrics: means over the local steps, one for each term, and `accuracy`.
        delta_norm: Euclidean length of its update.
        measurements: what a wrapped client call measured beside training, such as local spectra.
        seconds: wall-clock time of its training.
        parts: the same by part of a local step.
    """

    client: int
    num_examples: int
    num_steps: int
    metrics: dict[str, float]
    delta_norm: float
    measurements: Tree
    seconds: float
    parts: dict[str, float]


@dataclass(frozen=True, eq=False)
class RoundRecord:
    """What happened in one round. Round 0 is the model before training.

    Attributes:
        round: 1 is the first one trained.
        cohort: the clients asked.
        clients: those that answered, in cohort order, rejected ones included.
        rejected: those whose update did not enter the average, and why.
        evaluation: of the global model after the round; None where it was not asked for.
        diagnosis: of the local models and their average; None where it was not asked for.
        federated: the spectrum of the cohort's own examples under the model after the round; None likewise.
        seconds: wall-clock time by part: `clients`, `evaluation`, `diagnosis`, `federated`, `total`.
        traffic: bytes sent; None where clients are on this machine.
    """

    round: int
    cohort: tuple[int, ...]
    clients: tuple[ClientSummary, ...]
    rejected: tuple[Rejection, ...]
    evaluation: Evaluation | None
    diagnosis: RoundDiagnosis | None
    federated: FederatedSpectrum | None
    seconds: dict[str, float]
    traffic: Traffic | None = None


def sample_cohort(num_clients: int, size: int, *, seed: int, round: int) -> list[int]:
    """`size` of the clients 0 to `num_clients - 1`, without replacement, in ascending order.

    A function of its arguments: a resumed run draws the same cohorts without any generator's state.

    Raises:
        ValueError: `size` is not from 1 to `num_clients`.

    >>> sample_cohort(3, 3, seed=0, round=1)
    [0, 1, 2]
    """
    if not 1 <= size <= num_clients:
        raise ValueError(f"a cohort has from 1 to {num_clients} clients (the federation), got {size}.")
    generator = np.random.default_rng(derive_seed("cohort", seed, round))
    return sorted(generator.choice(num_clients, size, replace=False).tolist())


def run_round(
    algorithm: Algorithm,
    server: ServerState,
    engine: Engine,
    cohort: Sequence[int],
    *,
    seed: int,
    guard: GuardPolicy = "reject",
    measure: Callable[[ClientCall], ClientCall] | None = None,
) -> tuple[ServerState, tuple[ClientSummary, ...], tuple[Rejection, ...]]:
    """One round of `algorithm` with the clients of `cohort`.

    Args:
        algorithm: its four slots.
        server: the state to start from; left as it is.
        engine: where the clients run.
        cohort: distinct client numbers.
        seed: of the run.
        guard: what happens to an update with NaN, infinity or a wrong shape.
        measure: wraps the client call, to measure local models where they are trained.

    Returns:
        The next state, a summary of each client, and the rejected updates.
    """
    broadcast = server.broadcast(algorithm, seed=seed)
    call = measure(algorithm.client) if measure else algorithm.client
    summaries: list[ClientSummary] = []
    rejected: list[Rejection] = []
    averaged: list[int] = []
    states: dict[int, ClientState] = {}

    def usable() -> Iterator[ClientResult]:
        for result, state in engine.run(call, broadcast, cohort, server.clients):
            if wrong := malformed(result.extras):
                result = ClientResult.failed(result.client, wrong)  # what it sent is not looked at again
            kept, rejection = guarded(result, broadcast, guard, state=state)
            if result.failure is None:
                summaries.append(_summary(result))
            if rejection is not None:
                rejected.append(rejection)
            elif state:
                states[result.client] = state
            if kept is not None:
                averaged.extend(result.clients)
                yield kept

    aggregator = algorithm.aggregate
    if isinstance(aggregator, NoisyAggregator):
        aggregator = aggregator.in_round(seed=seed, round=broadcast.round)
    aggregate = aggregator(usable())
    model, optimizer, shared = server.model, server.optimizer, server.shared
    if aggregate is not None:
        step, optimizer = algorithm.server.update(aggregate, optimizer)
        shared = shared_by(algorithm.client.objective, shared, aggregate.extras)
        model = ModelState(tree.add(model.params, step), model.buffers).replaced(aggregate.buffers)
        if algorithm.client.buffers == "recalibrate" and model.buffers:
            model = _recalibrated(model, algorithm, engine, replace(broadcast, model=model), averaged)
    following = ServerState(broadcast.round, model, optimizer, server.clients | states, shared)
    return following, tuple(summaries), tuple(rejected)


def simulate(
    algorithm: Algorithm,
    engine: Engine,
    start: ModelState | ServerState,
    *,
    num_clients: int,
    rounds: int,
    seed: int,
    cohort_size: int | None = None,
    guard: GuardPolicy = "reject",
    evaluate: Callable[[ServerState], Evaluation | None] = lambda server: None,
    measure: Callable[[int], Callable[[ClientCall], ClientCall] | None] = lambda round: None,
    diagnose: Callable[[ServerState, Sequence[ClientSummary]], RoundDiagnosis | None] = lambda server, clients: None,
    pool: Callable[[ServerState, Sequence[int]], FederatedSpectrum | None] = lambda server, cohort: None,
) -> Iterator[tuple[RoundRecord, ServerState]]:
    """Run `algorithm` up to round `rounds`; yield what happened in each round with the state after it.

    Args:
        algorithm: its four slots.
        engine: where the clients run.
        start: an initial model (its evaluation comes first, as round 0), or the state of a run to go on with.
        num_clients: clients of the federation.
        rounds: the last round; nothing is yielded if `start` is already there.
        seed: cohorts and everything random on a client are functions of it.
        cohort_size: clients a round; None takes all of them.
        guard: what happens to an unusable update, see `decollapse.guard`.
        evaluate: called with the state after each round, and with the initial one.
        measure: for a round, what to wrap around the client call, or None.
        diagnose: called with the state after each round and what was measured of clients without a rejection.
        pool: called with the state after each round and its cohort, for the spectrum of the clients' own examples.
    """
    if isinstance(start, ModelState):
        server = ServerState.initial(start, algorithm, num_clients=num_clients)
        began = time.perf_counter()
        evaluation = evaluate(server)
        seconds = time.perf_counter() - began
        yield RoundRecord(0, (), (), (), evaluation, None, None, {"evaluation": seconds, "total": seconds}), server
    else:
        server = start
    while server.round < rounds:
        began, sent_before = time.perf_counter(), traffic_of(engine)
        round = server.round + 1
        cohort = sample_cohort(num_clients, num_clients if cohort_size is None else cohort_size, seed=seed, round=round)
        server, clients, rejected = run_round(
            algorithm, server, engine, cohort, seed=seed, guard=guard, measure=measure(round)
        )
        trained = time.perf_counter()
        evaluation = evaluate(server)
        evaluated = time.perf_counter()
        left_out = {rejection.client for rejection in rejected}
        diagnosis = diagnose(server, [client for client in clients if client.client not in left_out])
        diagnosed = time.perf_counter()
        federated = pool(server, cohort)
        unfit = set() if diagnosis is None else {client.client for client in clients} - left_out - {*diagnosis.clients}
        clients = tuple(
            replace(client, measurements={} if client.client in unfit else lasting(client.measurements))
            for client in clients
        )
        ended = time.perf_counter()
        seconds_by_part = {
            "clients": trained - began,
            "evaluation": evaluated - trained,
            "diagnosis": diagnosed - evaluated,
            "federated": ended - diagnosed,
            "total": ended - began,
        }
        sent = traffic_of(engine)
        traffic = None if sent is None or sent_before is None else sent - sent_before
        parts = evaluation, diagnosis, federated, seconds_by_part, traffic
        yield RoundRecord(round, tuple(cohort), clients, rejected, *parts), server


def _summary(result: ClientResult) -> ClientSummary:
    return ClientSummary(
        client=result.client,
        num_examples=result.num_examples,
        num_steps=result.num_steps,
        metrics=result.metrics,
        delta_norm=math.sqrt(result.squared_norm),
        measurements={name: leaf for name, leaf in result.extras.items() if name.startswith(MEASURED)},
        seconds=result.seconds,
        parts=result.parts,
    )


def _recalibrated(
    model: ModelState, algorithm: Algorithm, engine: Engine, broadcast: Broadcast, cohort: Sequence[int]
) -> ModelState:
    """`model` with BatchNorm statistics that the cohort measured on it."""
    results = (result for result, _ in engine.run(Recalibrate(), broadcast, cohort, {}) if result.failure is None)
    finite = (result for result in results if all(leaf.isfinite().all() for leaf in result.buffers.values()))
    aggregate = algorithm.aggregate(finite)
    return model if aggregate is None else model.replaced(aggregate.buffers)
