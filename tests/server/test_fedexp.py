from __future__ import annotations

import math

import pytest
import torch
from members import initial_model, small_federation
from quadratics import Distance, descent, points, rounds
from torch import Tensor

from decollapse.aggregate import Aggregate
from decollapse.aggregate.mean import WeightedMean
from decollapse.algorithms import Algorithm, fedexp
from decollapse.client import ClientUpdate
from decollapse.core import ClientResult, ModelState
from decollapse.engines.serial import Serial
from decollapse.optim import SGD
from decollapse.server.fedexp import FedExP
from decollapse.server_state import ServerState
from decollapse.simulation import simulate
from decollapse.tree import Tree


def mean_of(*updates: list[float], examples: list[int] | None = None, buffer: float = 0.0) -> Aggregate:
    """What the mean of these updates hands to the server."""
    buffers = {"running_mean": torch.tensor(buffer), "num_batches_tracked": torch.tensor(10**6)}
    results = [
        ClientResult(client, n, 1, {"w": torch.tensor(update, dtype=torch.float64)}, buffers, {})
        for client, (update, n) in enumerate(zip(updates, examples or [1] * len(updates), strict=True))
    ]
    aggregate = WeightedMean()(results)
    assert aggregate is not None
    return aggregate


def stretch(server: FedExP, aggregate: Aggregate) -> float:
    """How many times the mean update the step is."""
    step, _ = server.update(aggregate, {})
    return (step["w"].norm() / aggregate.delta["w"].norm()).item()


def test_three_orthonormal_updates_are_stretched_to_one_and_a_half() -> None:
    # sum ||delta||^2 / (2 M ||mean||^2) = 3 / (2 * 3 * 1/3).
    aggregate = mean_of([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0])
    assert stretch(FedExP(eps=0.0), aggregate) == pytest.approx(1.5)


def test_equal_updates_are_averaged() -> None:
    aggregate = mean_of([3.0, 4.0], [3.0, 4.0])
    step, _ = FedExP(eps=0.0).update(aggregate, {})
    assert torch.equal(step["w"], aggregate.delta["w"])


def test_weights_of_the_norms_are_those_of_the_mean() -> None:
    # p = 1/10, 9/10: sum p ||delta||^2 = 1, ||mean||^2 = 0.01 + 0.81.
    aggregate = mean_of([1.0, 0.0], [0.0, 1.0], examples=[1, 9])
    assert stretch(FedExP(eps=0.0), aggregate) == 1.0
    aggregate = mean_of([10.0, 0.0], [0.0, 1.0], examples=[1, 9])
    assert stretch(FedExP(eps=0.0), aggregate) == pytest.approx((0.1 * 100 + 0.9) / (2 * (1 + 0.81)))


def test_eps_shortens_the_step_by_hand() -> None:
    aggregate = mean_of([1.0, 0.0], [-0.5, 0.0])  # ||mean||^2 = 1/16, mean of norms 5/8
    assert stretch(FedExP(eps=0.0), aggregate) == pytest.approx(5.0)
    assert stretch(FedExP(eps=1 / 16), aggregate) == pytest.approx(2.5)


def test_with_a_large_eps_it_is_fedavg_bitwise() -> None:
    aggregate = mean_of([1.0, 0.1], [-0.9, 0.3])
    step, _ = FedExP(eps=1e30).update(aggregate, {})
    assert torch.equal(step["w"], aggregate.delta["w"])


@pytest.mark.parametrize("eps", [0.0, 1e-3])
@pytest.mark.parametrize("updates", [([0.0], [0.0]), ([1.0], [-1.0])])
def test_a_mean_of_zero_is_no_step(eps: float, updates: tuple[list[float], list[float]]) -> None:
    step, _ = FedExP(eps=eps).update(mean_of(*updates), {})
    assert step["w"].tolist() == [0.0]


def test_buffers_do_not_reach_the_norms() -> None:
    updates = ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0])
    assert stretch(FedExP(), mean_of(*updates, buffer=1e6)) == stretch(FedExP(), mean_of(*updates))


def test_the_norms_of_a_model_with_batchnorm_are_of_its_parameters() -> None:
    update = ClientUpdate(batch_size=8, optimizer=SGD(lr=0.05))
    seen: list[ClientResult] = []

    class Spy:
        needs_single_updates = False

        def __call__(self, results):  # type: ignore[no-untyped-def]
            seen.extend(results)
            return WeightedMean()(seen)

    with Serial()(small_federation()) as engine:
        *_, (_, server) = simulate(
            Algorithm(update, Spy(), FedExP(eps=1e-3)), engine, initial_model(), num_clients=5, rounds=1, seed=0
        )
    total = sum(result.num_examples for result in seen)

    def squared_norm(tree: Tree) -> float:
        return sum(leaf.double().square().sum().item() for leaf in tree.values())

    mean = {
        name: sum(result.num_examples / total * result.delta[name].double() for result in seen)
        for name in seen[0].delta
    }
    mean_of_norms = sum(result.num_examples / total * squared_norm(result.delta) for result in seen)
    lr = max(1.0, mean_of_norms / (2 * (squared_norm(mean) + 1e-3)))
    assert lr > 1.01
    for name, start in initial_model().params.items():
        expected = start.double() + lr * mean[name]
        torch.testing.assert_close(server.model.params[name].double(), expected, rtol=1e-5, atol=1e-6)


def evaluated(algorithm: Algorithm, number: int) -> tuple[list[Tensor], list[Tensor]]:
    """The global w, and the w that is evaluated, after rounds 0 to `number`."""
    trained, seen = [], []

    def evaluate(server: ServerState) -> None:
        trained.append(server.model.params["w"])
        seen.append(server.evaluated(algorithm).params["w"])

    start = ModelState({"w": torch.tensor([1.0], dtype=torch.float64)})
    with Serial(dtype="float64")(points(0.0, 4.0, -7.0)) as engine:
        list(simulate(algorithm, engine, start, num_clients=3, rounds=number, seed=0, cohort_size=2, evaluate=evaluate))
    return trained, seen


def test_what_is_evaluated_is_the_mean_of_the_last_two_models_and_training_goes_on_from_the_last() -> None:
    algorithm = fedexp(descent(lr=0.3), eps=1e-3)
    trained, seen = evaluated(algorithm, 4)
    assert torch.equal(seen[0], trained[0])
    for before, after, mean in zip(trained, trained[1:], seen[1:], strict=False):
        torch.testing.assert_close(mean, (before + after) / 2, rtol=1e-12, atol=1e-12)
    last_alone = evaluated(fedexp(descent(lr=0.3), eps=1e-3, compat="release"), 4)
    assert trained == last_alone[0] == last_alone[1]


def test_the_broadcast_is_the_last_model() -> None:
    algorithm = fedexp(descent())
    for server in rounds(algorithm, points(0.0, 4.0), [[0, 1]] * 2):
        assert server.broadcast(algorithm, seed=0).model.params["w"] is server.model.params["w"]


def test_a_round_without_a_result_leaves_the_evaluated_model_as_it_was() -> None:
    algorithm = Algorithm(ClientUpdate((Distance(),)), server=FedExP())
    before, after = rounds(algorithm, points(2.0, 4.0), [[0, 1], []])
    assert torch.equal(before.evaluated(algorithm).params["w"], after.evaluated(algorithm).params["w"])


def test_a_rule_without_norms_is_refused() -> None:
    aggregate = Aggregate({"w": torch.ones(1)}, {}, num_clients=1, num_examples=1)
    with pytest.raises(ValueError, match="use weighted_mean"):
        FedExP().update(aggregate, {})


@pytest.mark.parametrize("eps", [-1e-3, math.nan, math.inf])
def test_a_bad_eps_is_refused(eps: float) -> None:
    with pytest.raises(ValueError, match=f"eps .* got {eps}"):
        FedExP(eps=eps)
