from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from members import initial_model, small_federation
from quadratics import points, rounds
from torch import Tensor

from decollapse.aggregate import Aggregate
from decollapse.aggregate.mean import WeightedMean
from decollapse.aggregate.normalized import NormalizedMean
from decollapse.algorithms import fedavg, fednova
from decollapse.client import ClientUpdate
from decollapse.core import ClientResult
from decollapse.engines.serial import Serial
from decollapse.objective import Step
from decollapse.optim import SGD, Adam
from decollapse.server.fedexp import FedExP
from decollapse.simulation import simulate
from decollapse.terms.proximal import Proximal


def result(num_examples: int, value: float, step_size: float | None, client: int = 0) -> ClientResult:
    buffers = {"running_mean": torch.tensor(value), "num_batches_tracked": torch.tensor(3)}
    delta = {"w": torch.tensor(value, dtype=torch.float64)}
    return ClientResult(client, num_examples, 1, delta, buffers, {}, step_size=step_size)


def mean(*results: ClientResult) -> Aggregate:
    aggregate = NormalizedMean()(results)
    assert aggregate is not None
    return aggregate


def test_opposite_gradients_cancel_however_many_steps_were_taken() -> None:
    # eta = 0.1, tau = 1 and 3, gradients 1 and -1: FedAvg ends at +0.1.
    results = (result(1, -0.1, 0.1), result(1, 0.3, 0.3))
    assert mean(*results).delta["w"].item() == pytest.approx(0.0, abs=1e-15)
    averaged = WeightedMean()(results)
    assert averaged is not None
    assert averaged.delta["w"].item() == pytest.approx(0.1)


def test_two_unequal_clients_by_hand() -> None:
    # p = 1/4, 3/4; directions 2 and 5; effective step 1/4 * 0.5 + 3/4 * 2.
    aggregate = mean(result(1, 1.0, 0.5), result(3, 10.0, 2.0))
    assert aggregate.delta["w"].item() == pytest.approx((0.25 * 2 + 0.75 * 5) * (0.25 * 0.5 + 0.75 * 2))
    assert (aggregate.num_clients, aggregate.num_examples) == (2, 4)


def test_with_equal_step_sizes_it_is_the_weighted_mean() -> None:
    results = (result(1, 1.0, 0.7), result(3, 10.0, 0.7))
    averaged = WeightedMean()(results)
    assert averaged is not None
    assert mean(*results).delta["w"].item() == pytest.approx(averaged.delta["w"].item(), rel=1e-12)


def test_a_common_factor_of_the_step_sizes_cancels() -> None:
    once = mean(result(1, 1.0, 0.5), result(3, 10.0, 2.0))
    twice = mean(result(1, 1.0, 1.0), result(3, 10.0, 4.0))
    assert once.delta["w"].item() == pytest.approx(twice.delta["w"].item(), rel=1e-12)


def test_buffers_are_averaged_as_they_are() -> None:
    aggregate = mean(result(1, 1.0, 0.5), result(3, 10.0, 2.0))
    assert aggregate.buffers["running_mean"].item() == pytest.approx(7.75)
    assert aggregate.buffers.keys() == {"running_mean"}


def test_what_clients_send_besides_is_averaged_as_it_is() -> None:
    results = [replace(result(n, 1.0, 0.5), extras={"a/x": torch.tensor(x)}) for n, x in ((1, 4.0), (3, 8.0))]
    assert mean(*results).extras["a/x"].item() == 7.0


def test_no_result_is_no_aggregate() -> None:
    assert NormalizedMean()([]) is None


@dataclass(frozen=True)
class Slope:
    """The loss `s w` of a client whose examples are s: a constant gradient."""

    name: ClassVar[str] = "slope"

    def __call__(self, step: Step) -> Tensor:
        return (step.params["w"] * step.x.mean()).sum()


@pytest.mark.parametrize(
    ("optimizer", "a"),
    [
        (SGD(lr=0.1, momentum=0.0), (1.0, 3.0)),
        (SGD(lr=0.1, momentum=0.9), (1.0, 5.61)),
        (SGD(lr=0.1, momentum=0.9, nesterov=True), None),
    ],
)
def test_clients_under_constant_gradients_report_the_steps_that_give_those_gradients_back(
    optimizer: SGD, a: tuple[float, float] | None
) -> None:
    # p = 1/4, 3/4 and slopes 1, -2: the mean gradient is -5/4.
    client = ClientUpdate((Slope(),), optimizer, batch_size=1)
    (server,) = rounds(fednova(client), points(1.0, -2.0, sizes=[1, 3]), [[0, 1]])
    one, three = a or (optimizer.step_size(1) / 0.1, optimizer.step_size(3) / 0.1)
    expected = 5 / 4 * 0.1 * (one / 4 + 3 * three / 4)
    assert server.model.params["w"].item() == pytest.approx(expected, rel=1e-9)


def test_the_pull_of_a_proximal_term_is_divided_out_too() -> None:
    client = ClientUpdate((Slope(), Proximal(mu=1.0)), SGD(lr=0.1, momentum=0.9), batch_size=1)
    (server,) = rounds(fednova(client), points(1.0, -2.0, sizes=[1, 3]), [[0, 1]])
    assert server.model.params["w"].item() == pytest.approx(5 / 4 * 0.1 * (1 / 4 + 3 * 5.14 / 4), rel=1e-3)


def test_with_absent_clients_weights_are_those_of_the_cohort() -> None:
    client = ClientUpdate((Slope(),), SGD(lr=0.1, momentum=0.0), batch_size=1)
    federation = points(1.0, -2.0, 100.0, sizes=[1, 3, 50])
    servers = list(rounds(fednova(client), federation, [[0, 1], [0]]))
    first = 5 / 4 * 0.1 * (1 / 4 + 3 * 3 / 4)
    assert [server.model.params["w"].item() for server in servers] == pytest.approx([first, first - 0.1])


def test_statistics_can_be_measured_anew_after_the_round() -> None:
    algorithm = fednova(ClientUpdate(batch_size=8, buffers="recalibrate"))
    plain = fedavg(ClientUpdate(batch_size=1000, buffers="recalibrate"))
    with Serial()(small_federation()) as engine:
        *_, (_, server) = simulate(algorithm, engine, initial_model(), num_clients=5, rounds=1, seed=0)
        ones = fednova(plain.client)
        *_, (_, ours) = simulate(ones, engine, initial_model(), num_clients=5, rounds=1, seed=0)
        *_, (_, theirs) = simulate(plain, engine, initial_model(), num_clients=5, rounds=1, seed=0)
    assert all(torch.isfinite(leaf).all() for leaf in server.model.buffers.values())
    for name, leaf in ours.model.buffers.items():
        torch.testing.assert_close(leaf, theirs.model.buffers[name], rtol=1e-4, atol=1e-5)


def test_an_optimiser_without_a_step_size_is_refused_with_the_client_named() -> None:
    with pytest.raises(ValueError, match="client 4"):
        mean(result(1, 1.0, 0.5), result(1, 1.0, Adam().step_size(1), client=4))


def test_it_has_no_mean_of_norms_for_fedexp() -> None:
    aggregate = mean(result(1, 1.0, 0.5))
    assert aggregate.squared_norm is None
    with pytest.raises(ValueError, match="use weighted_mean"):
        FedExP().update(aggregate, {})


def test_the_results_are_left_as_they_were() -> None:
    sent = result(3, 10.0, 2.0)
    mean(sent, replace(sent))
    assert sent.delta["w"].item() == 10.0
