from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from feature_batches import draw, gradient
from members import initial_model, small_federation, unequal_federation
from torch import Tensor

from decollapse import tree
from decollapse.aggregate import Aggregate
from decollapse.aggregate.mean import WeightedMean
from decollapse.aggregate.normalized import NormalizedMean
from decollapse.algorithms import Algorithm, fedavg, with_term
from decollapse.client import ClientUpdate
from decollapse.core import Broadcast, ClientCall, ModelState, Output
from decollapse.engines.serial import Serial
from decollapse.objective import BatchwiseTerm, LayerTerm, SharingTerm
from decollapse.robust import CoordinateMedian
from decollapse.server import ServerOptimizer
from decollapse.server.adaptive import FedAdam
from decollapse.server.fedexp import FedExP
from decollapse.server.sgd import ServerSGD
from decollapse.server_state import ServerState
from decollapse.simulation import run_round
from decollapse.terms.correlation_estimate import decorrelation_around
from decollapse.terms.feddecorr import FedDecorr, Matrix, decorrelation_loss
from decollapse.terms.global_feddecorr import GlobalFedDecorr
from decollapse.tree import Tree

MATRICES: tuple[Matrix, ...] = ("correlation", "covariance")
NOTHING = ModelState({})
SCALE = 63**2 / 64


def step(features: Tensor, state: Tree, shared: Tree, **layers: Tensor) -> Any:
    extras = tree.prefixed(shared, "global_feddecorr/")
    return SimpleNamespace(
        output=Output(torch.zeros(len(features), 2), features, layers),
        state=state,
        broadcast=Broadcast(2, NOTHING, seed=0, extras=extras),
    )


def sent(term: GlobalFedDecorr, *batches: Tensor) -> Tree:
    """What a client with these batches sends after a round."""
    state = term.init_state(NOTHING)
    for batch in batches:
        state = term.after_batch(step(batch, state, {}))
    return term.upload(state, {})


def mean(uploads: list[Tree], weights: list[float]) -> Tree:
    average = tree.RunningMean()
    for weight, upload in zip(weights, uploads, strict=True):
        average.update(weight, upload)
    return average.result()


def of_all(term: GlobalFedDecorr, clients: list[Tensor], weights: list[float]) -> Tree:
    return term.share({}, mean([sent(term, client) for client in clients], weights))


def test_two_clients_that_cancel_have_no_penalty_by_hand() -> None:
    same = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64).repeat(16, 1)
    clients = [same, same * torch.tensor([1.0, -1.0])]
    term = GlobalFedDecorr(beta=1.0, mix=1.0)
    for client in clients:
        assert term(step(client, {}, of_all(term, clients, [1, 1]))).item() == pytest.approx(0.0, abs=1e-6)
        assert FedDecorr(beta=1.0)(step(client, {}, {})).item() == pytest.approx(SCALE)
    # Three times as many examples of the first: G = 1/2; 2 (1/2) (1) - 1/4 and 2 (1/2) (-1) - 1/4.
    values = [term(step(client, {}, of_all(term, clients, [3, 1]))).item() / SCALE for client in clients]
    assert values == pytest.approx([0.75, -1.25])


@pytest.mark.parametrize("matrix", MATRICES)
def test_the_clients_mean_gradient_is_that_of_the_penalty_on_the_mean_correlation(matrix: Matrix) -> None:
    clients, weights = [draw(20, 6, seed=seed) for seed in range(3)], [0.5, 0.3, 0.2]
    term = GlobalFedDecorr(beta=1.0, mix=1.0, matrix=matrix, eps=1e-14)
    shared = of_all(term, clients, weights)

    def deviation(z: Tensor) -> Tensor:
        if matrix == "correlation":
            return torch.corrcoef(z.T) - torch.eye(6, dtype=z.dtype)
        C = torch.cov(z.T)
        return C / C.diagonal().mean() - torch.eye(6, dtype=z.dtype)

    leaves = [client.clone().requires_grad_() for client in clients]
    G = sum(weight * deviation(z) for weight, z in zip(weights, leaves, strict=True))
    expected = torch.autograd.grad(SCALE * G.square().sum() / (6 * 5), leaves)
    for weight, client, theirs in zip(weights, clients, expected, strict=True):
        ours = gradient(lambda z: term(step(z, {}, shared)), client)
        torch.testing.assert_close(weight * ours, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("mix", [0.3, 0.5, 1.0])
def test_where_all_clients_agree_it_is_feddecorr(mix: float) -> None:
    features = draw(20, 6)
    term = GlobalFedDecorr(beta=0.3, mix=mix)
    shared = of_all(term, [features, features], [1, 2])
    ours = gradient(lambda z: term(step(z, {}, shared)), features)
    torch.testing.assert_close(
        ours, gradient(lambda z: FedDecorr(beta=0.3)(step(z, {}, {})), features), rtol=1e-6, atol=1e-9
    )


def test_mix_is_the_share_of_the_federation() -> None:
    features, G = draw(20, 6), {"features": torch.full((6, 6), 0.1, dtype=torch.float64)}
    value = GlobalFedDecorr(beta=0.3, mix=0.2)(step(features, {}, G))
    torch.testing.assert_close(value, 0.3 * decorrelation_around(features, G["features"], share=0.2))


def test_the_first_round_is_feddecorr_bit_for_bit() -> None:
    features = draw(20, 6).float()
    assert torch.equal(GlobalFedDecorr(mix=1.0)(step(features, {}, {})), FedDecorr()(step(features, {}, {})))


def test_a_client_sends_its_mean_over_the_batches_of_the_round() -> None:
    batches = [draw(6, 4), draw(3, 4, seed=1), draw(1, 4, seed=2)]
    upload = sent(GlobalFedDecorr(), *batches)
    first, second = (torch.corrcoef(batch.T) - torch.eye(4, dtype=batch.dtype) for batch in batches[:2])
    torch.testing.assert_close(upload["features/D"], (5 * first + 2 * second) / 7, rtol=1e-6, atol=1e-6)
    assert upload["features/known"].item() == 1


def test_a_client_of_one_example_counts_for_nothing() -> None:
    term, features = GlobalFedDecorr(), draw(20, 4)
    uploads = [sent(term, features), sent(term, draw(1, 4))]
    alone, together = term.share({}, mean(uploads[:1], [3])), term.share({}, mean(uploads, [3, 5]))
    torch.testing.assert_close(together["features"], alone["features"])


def test_a_cohort_that_measured_nothing_leaves_what_was_known() -> None:
    term, known = GlobalFedDecorr(), {"features": torch.ones(4, 4)}
    nothing = mean([sent(term, draw(1, 4))], [1])
    assert term.share(known, nothing) is not known
    assert torch.equal(term.share(known, nothing)["features"], known["features"])
    assert term.share({}, nothing) == {}


def test_layers_have_correlations_of_their_own() -> None:
    term = GlobalFedDecorr(beta=1.0, mix=1.0, layers=("features", "stage"))
    assert isinstance(term, LayerTerm)
    z, stage = draw(20, 5), draw(20, 3, seed=1)
    state = term.after_batch(step(z, {}, {}, stage=stage))
    shared = term.share({}, term.upload(state, {}))
    alone = (decorrelation_loss(z, eps=1e-8) + decorrelation_loss(stage, eps=1e-8)) / 2
    torch.testing.assert_close(term(step(z, {}, shared, stage=stage)), alone)  # at R = D the tangent is the parabola


@pytest.mark.parametrize("settings", [{"beta": 0.0}, {"mix": 0.0}])
def test_what_takes_no_part_sends_nothing(settings: dict[str, float]) -> None:
    term = GlobalFedDecorr(**settings)
    assert sent(term, draw(6, 4)) == {}
    assert term.share({}, {}) == {}
    assert isinstance(term, SharingTerm)
    assert isinstance(term, BatchwiseTerm)


def test_an_aggregator_that_drops_the_correlations_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the mean of the correlations that its clients send"):
        GlobalFedDecorr().share({}, {})


@pytest.mark.parametrize("mix", [-0.1, 1.1, math.nan])
def test_a_mix_that_is_no_share_is_refused(mix: float) -> None:
    with pytest.raises(ValueError, match="mix is a share from 0 to 1, got"):
        GlobalFedDecorr(mix=mix)


# In a federation.

CLIENT = ClientUpdate(epochs=2, batch_size=8)


def rounds(algorithm: Algorithm, cohorts: list[list[int]], **options: Any) -> list[ServerState]:
    with Serial()(small_federation()) as engine:
        server = ServerState.initial(initial_model(), algorithm, num_clients=5)
        states = []
        for cohort in cohorts:
            server, _, _ = run_round(algorithm, server, engine, cohort, seed=2, **options)
            states.append(server)
    return states


@pytest.mark.parametrize(
    ("server", "aggregate"),
    [(ServerSGD(momentum=0.5), WeightedMean()), (FedAdam(), NormalizedMean()), (FedExP(), WeightedMean("uniform"))],
    ids=["momentum", "adam and fednova", "fedexp and uniform"],
)
def test_it_goes_with_other_servers_and_both_means(server: ServerOptimizer, aggregate: Any) -> None:
    algorithm = replace(with_term(fedavg(CLIENT), GlobalFedDecorr()), server=server, aggregate=aggregate)
    first, second = rounds(algorithm, [[0, 1, 2], [2, 3]])
    for state in (first, second):
        assert state.shared.keys() == {"global_feddecorr/features"}
        assert state.shared["global_feddecorr/features"].shape == (24, 24)
    assert not torch.equal(*(state.shared["global_feddecorr/features"] for state in (first, second)))


def test_what_is_shared_is_the_cohorts_mean_by_examples() -> None:
    algorithm = with_term(fedavg(CLIENT), GlobalFedDecorr())
    cohort, federation = [0, 2, 4], small_federation()
    (state,) = rounds(algorithm, [cohort])
    broadcast = ServerState.initial(initial_model(), algorithm, num_clients=5).broadcast(algorithm, seed=2)
    assert broadcast.extras == {}
    with Serial()(federation) as engine:
        results = [result for result, _ in engine.run(algorithm.client, broadcast, cohort, {})]
    sizes = torch.tensor([result.num_examples for result in results], dtype=torch.float32)
    D = torch.stack([result.extras["global_feddecorr/features/D"] for result in results])
    expected = torch.tensordot(sizes / sizes.sum(), D, dims=1)
    torch.testing.assert_close(state.shared["global_feddecorr/features"], expected)
    assert state.broadcast(algorithm, seed=2).extras.keys() == {"global_feddecorr/features"}
    assert not state.clients


def test_a_rejected_client_has_no_part_in_it() -> None:
    def poison(call: ClientCall) -> ClientCall:
        def poisoned(model, data, broadcast, state):  # type: ignore[no-untyped-def]
            result, state = call(model, data, broadcast, state)
            if data.client == 1:
                result = replace(result, extras={name: leaf * torch.nan for name, leaf in result.extras.items()})
            return result, state

        return poisoned

    algorithm = with_term(fedavg(CLIENT), GlobalFedDecorr())
    (with_it,), (without,) = rounds(algorithm, [[0, 1, 2]], measure=poison), rounds(algorithm, [[0, 2]])
    assert torch.equal(*(state.shared["global_feddecorr/features"] for state in (with_it, without)))


def test_a_round_without_a_result_keeps_it() -> None:
    before, after = rounds(with_term(fedavg(CLIENT), GlobalFedDecorr()), [[0, 1], []])
    assert before.shared == after.shared


def test_clients_of_one_example_and_one_class_take_part() -> None:
    algorithm = with_term(fedavg(CLIENT), GlobalFedDecorr(mix=1.0))
    with Serial()(unequal_federation()) as engine:
        server = ServerState.initial(initial_model(), algorithm, num_clients=5)
        for cohort in ([0], [0, 1], [0, 4]):
            server, _, rejected = run_round(algorithm, server, engine, cohort, seed=2)
            assert not rejected
    assert all(leaf.isfinite().all() for leaf in server.model.params.values())


def test_a_robust_rule_refuses_it() -> None:
    algorithm = replace(with_term(fedavg(CLIENT), GlobalFedDecorr()), aggregate=CoordinateMedian())
    with pytest.raises(ValueError, match="sends 'global_feddecorr/features/D' beside its update"):
        rounds(algorithm, [[0, 1, 2]])


def test_an_aggregator_of_somebody_else_without_extras_ends_the_run_with_a_sentence() -> None:
    class Forgetful(WeightedMean):
        def __call__(self, results: Any) -> Aggregate | None:
            aggregate = super().__call__(results)
            return aggregate and replace(aggregate, extras={})

    algorithm = replace(with_term(fedavg(CLIENT), GlobalFedDecorr()), aggregate=Forgetful())
    with pytest.raises(ValueError, match="this aggregator leaves it out; use weighted_mean"):
        rounds(algorithm, [[0, 1]])
