"""A federation under secure aggregation ends where it would have ended without."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import pytest
from members import PullBack, initial_model, small_federation

from decollapse.algorithms import Algorithm, fedavg, fedexp, fednova, moon, scaffold, with_term
from decollapse.client import ClientUpdate
from decollapse.config import from_table
from decollapse.core import ModelState
from decollapse.diagnosis.federated import federated_spectrum
from decollapse.diagnosis.measure_features import MeasureFeatures
from decollapse.engines import Engine
from decollapse.engines.serial import Serial
from decollapse.experiment import Experiment, prepare
from decollapse.privacy.private_mean import PrivateMean
from decollapse.robust import Krum
from decollapse.secure import FixedPoint, InProcess, SecureEngine, SecureSumError
from decollapse.secure.participant import AskInput, AskKeys, AskShares, AskUnmasking, Reply, Request
from decollapse.server_state import ServerState
from decollapse.simulation import RoundRecord, simulate

CLIENT = ClientUpdate(epochs=1, batch_size=8)
PHASES = (AskKeys, AskShares, AskInput, AskUnmasking)
CLIENTS = 5


@dataclass
class Gone:
    """Clients that do not answer from a phase on, in one of the rounds."""

    clients: InProcess
    phase: type
    who: tuple[int, ...]
    round: int = 2
    seen: int = 0

    def ask(self, requests: Mapping[int, Request]) -> Mapping[int, Reply]:
        kind = type(next(iter(requests.values())))
        self.seen += kind is AskKeys
        gone = self.who if self.seen == self.round and PHASES.index(kind) >= PHASES.index(self.phase) else ()
        return self.clients.ask({client: request for client, request in requests.items() if client not in gone})


class Without:
    """The plain engine, which leaves out what these clients do in one round."""

    def __init__(self, engine: Engine, who: tuple[int, ...], round: int = 2) -> None:
        self.engine, self.who, self.round = engine, who, round

    def run(self, call, broadcast, cohort, states):
        gone = self.who if broadcast.round == self.round else ()
        return self.engine.run(call, broadcast, [client for client in cohort if client not in gone], states)


def double(model: ModelState) -> ModelState:
    def wide(tree):
        return {name: leaf.double() if leaf.is_floating_point() else leaf for name, leaf in tree.items()}

    return ModelState(wide(model.params), wide(model.buffers))


def train(
    algorithm: Algorithm, around: Callable[[Engine], Engine], *, dtype: str = "float64", cohort_size: int | None = None
) -> tuple[list[RoundRecord], ServerState]:
    start = double(initial_model()) if dtype == "float64" else initial_model()
    with Serial(dtype=dtype)(small_federation()) as engine:
        found = list(
            simulate(algorithm, around(engine), start, num_clients=CLIENTS, rounds=3, seed=2, cohort_size=cohort_size)
        )
    return [record for record, _ in found], found[-1][1]


def secured(algorithm: Algorithm, **settings: object) -> Callable[[Engine], Engine]:
    return lambda engine: SecureEngine(InProcess(engine), algorithm.aggregate, CLIENTS, engine, **settings)


def largest_difference(a: ModelState, b: ModelState) -> float:
    ours, theirs = a.params | a.buffers, b.params | b.buffers
    assert ours.keys() == theirs.keys()
    return max(float((leaf.double() - theirs[name].double()).abs().max()) for name, leaf in ours.items())


METHODS = {
    "fedavg": fedavg(CLIENT),
    "fednova": fednova(CLIENT),
    "fedexp, which asks for the mean squared norm": fedexp(CLIENT),
    "scaffold, which sends more": scaffold(CLIENT),
    "moon, which keeps a model": moon(CLIENT),
    "a stateful term": with_term(fedavg(CLIENT), PullBack()),
    "local buffers": fedavg(replace(CLIENT, buffers="local")),
    "recalibrated buffers": fedavg(replace(CLIENT, buffers="recalibrate")),
    "personal layers": fedavg(replace(CLIENT, personal=("head",))),
    "private": Algorithm(CLIENT, PrivateMean(clip=0.1, noise_multiplier=0.1)),
}


@pytest.mark.parametrize("name", METHODS)
def test_it_ends_with_the_weights_of_the_plain_run(name: str) -> None:
    plain = train(METHODS[name], lambda engine: engine, cohort_size=4)[1]
    records, ours = train(METHODS[name], secured(METHODS[name]), cohort_size=4)
    assert largest_difference(ours.model, plain.model) < 1e-14
    assert not any(record.rejected for record in records)
    assert not ours.clients  # states stay with the clients


def test_in_float32_the_error_is_that_of_float32() -> None:
    plain = train(METHODS["fedavg"], lambda engine: engine, dtype="float32")[1]
    ours = train(METHODS["fedavg"], secured(METHODS["fedavg"]), dtype="float32")[1]
    assert 0 <= largest_difference(ours.model, plain.model) < 2e-7


@pytest.mark.parametrize("phase", PHASES[:3])
@pytest.mark.parametrize("name", ["fedavg", "a stateful term"])
def test_who_drops_out_before_its_input_is_left_out_of_the_round(name: str, phase: type) -> None:
    algorithm = METHODS[name]
    plain = train(algorithm, lambda engine: Without(engine, (3,)))[1]
    around = secured(algorithm)

    def gone(engine: Engine) -> Engine:
        secure = around(engine)
        secure.reach = Gone(secure.reach, phase, (3,))
        return secure

    records, ours = train(algorithm, gone)
    assert largest_difference(ours.model, plain.model) < 1e-14
    assert [(r.client, r.reason) for r in records[2].rejected] == [(3, "it did not answer")]
    assert not records[3].rejected


@pytest.mark.parametrize("name", ["fedavg", "a stateful term"])
def test_who_drops_out_after_its_input_is_in_the_round_and_knows_so_in_the_next(name: str) -> None:
    algorithm = METHODS[name]
    plain = train(algorithm, lambda engine: engine)[1]

    def gone(engine: Engine) -> Engine:
        secure = secured(algorithm)(engine)
        secure.reach = Gone(secure.reach, AskUnmasking, (3,))
        return secure

    records, ours = train(algorithm, gone)
    assert largest_difference(ours.model, plain.model) < 1e-14
    assert not records[2].rejected


@pytest.mark.parametrize(
    ("phase", "said"),
    list(zip(PHASES, ("sent keys", "sent shares of their keys", "sent their input", "helped to unmask"), strict=True)),
)
def test_below_the_threshold_a_round_ends_in_one_sentence(phase: type, said: str) -> None:
    def gone(engine: Engine) -> Engine:
        secure = secured(METHODS["fedavg"])(engine)
        secure.reach = Gone(secure.reach, phase, (1, 3))
        return secure

    with pytest.raises(SecureSumError, match=f"round 2: 3 of 5 clients {said}, and the sum needs 4; nothing was"):
        train(METHODS["fedavg"], gone)


def test_keys_can_be_exchanged_once_for_the_whole_run() -> None:
    asked: list[type] = []

    @dataclass
    class Counting:
        clients: InProcess

        def ask(self, requests: Mapping[int, Request]) -> Mapping[int, Reply]:
            asked.append(type(next(iter(requests.values()))))
            return self.clients.ask(requests)

    def counted(engine: Engine) -> Engine:
        secure = secured(METHODS["fedavg"], ahead=3)(engine)
        secure.reach = Counting(secure.reach)
        return secure

    plain = train(METHODS["fedavg"], lambda engine: engine)[1]
    ours = train(METHODS["fedavg"], counted)[1]
    assert largest_difference(ours.model, plain.model) < 1e-14
    assert asked == [AskKeys, AskShares, *3 * [AskInput, AskUnmasking]]


@pytest.mark.parametrize(("cohort_size", "sums"), [(None, [3]), (4, [1, 1, 1])])
def test_a_part_of_the_clients_exchanges_keys_for_one_sum_at_a_time(cohort_size: int | None, sums: list[int]) -> None:
    asked: list[int] = []

    @dataclass
    class Counting:
        clients: InProcess

        def ask(self, requests: Mapping[int, Request]) -> Mapping[int, Reply]:
            first = next(iter(requests.values()))
            asked.extend([len(first.sessions)] if isinstance(first, AskKeys) else [])
            return self.clients.ask(requests)

    def counted(engine: Engine) -> Engine:
        secure = secured(METHODS["fedavg"], ahead=3)(engine)
        secure.reach = Counting(secure.reach)
        return secure

    train(METHODS["fedavg"], counted, cohort_size=cohort_size)
    assert asked == sums


def test_one_result_comes_for_the_cohort_and_no_clients_own() -> None:
    records, _ = train(METHODS["fedavg"], secured(METHODS["fedavg"]))
    for record in records[1:]:
        (only,) = record.clients
        assert only.client == -1
        assert only.num_examples == 160


def test_a_client_that_cannot_send_its_update_says_why_and_is_left_out() -> None:
    def narrow(engine: Engine) -> Engine:
        return secured(METHODS["fedavg"], encoding=FixedPoint(1, wide_bound=48.0))(engine)

    (_, record, *_), _ = train(METHODS["fedavg"], narrow)
    assert record.rejected  # the one with a sum of losses of 49.5
    assert all("has values beyond 48, which no sum takes" in rejection.reason for rejection in record.rejected)


def test_a_client_without_its_secret_refuses() -> None:
    with Serial()(small_federation()) as engine:
        clients = InProcess(engine)
        reply = clients.ask({0: AskShares((), ())})[0]
        assert reply == ()
        secure = SecureEngine(clients, fedavg(CLIENT).aggregate, CLIENTS, engine, ahead=2, threshold=3)
        algorithm = fedavg(CLIENT)
        rounds = simulate(algorithm, secure, initial_model(), num_clients=CLIENTS, rounds=2, seed=0)
        next(rounds), next(rounds)
        clients.memories.pop(4)  # started anew
        record, _ = next(rounds)
    assert [(r.client, r.reason[:36]) for r in record.rejected] == [(4, "this client has no secret of the run")]


def test_an_aggregator_that_needs_single_updates_is_refused() -> None:
    algorithm = Algorithm(CLIENT, Krum(num_byzantine=0))
    with pytest.raises(ValueError, match="Krum cannot work"):
        train(algorithm, secured(algorithm))


@pytest.fixture
def digits() -> Experiment:
    table = {"data": {"name": "digits", "train_size": 200, "test_size": 100}, "model": "mlp", "num_clients": 4}
    return from_table(table | {"rounds": 2, "engine": "serial", "secure_aggregation": True})


def test_a_whole_experiment_runs_with_its_test_set_and_federated_spectrum(digits: Experiment) -> None:
    prepared = prepare(digits)

    def around(engine: Engine) -> Engine:
        return SecureEngine(InProcess(engine), digits.aggregate, digits.num_clients, engine)

    *_, (plain, _) = prepared.run()
    *_, (ours, _) = prepared.run(watch=around)
    assert ours.evaluation.accuracy == plain.evaluation.accuracy
    assert ours.evaluation.loss == pytest.approx(plain.evaluation.loss, rel=1e-6)


def test_the_spectrum_of_a_federation_is_the_plain_one() -> None:
    with Serial()(small_federation()) as engine:
        secure = SecureEngine(InProcess(engine), fedavg(CLIENT).aggregate, CLIENTS, engine)
        plain, ours = (
            federated_spectrum(each, initial_model(), range(CLIENTS), seed=0, measure=MeasureFeatures(per_class=True))
            for each in (engine, secure)
        )
    assert ours.num_clients == CLIENTS
    largest = plain.spectrum.covariance.max()
    assert float((ours.spectrum.covariance - plain.spectrum.covariance).abs().max() / largest) < 1e-14
