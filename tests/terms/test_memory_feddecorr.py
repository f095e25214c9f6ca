from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from feature_batches import draw, gradient
from members import noisy_network, one_client
from torch import Tensor

from decollapse.client import ClientUpdate
from decollapse.core import Broadcast, ModelState, Output
from decollapse.objective import BatchwiseTerm, LayerTerm, SendingTerm, Step
from decollapse.optim import SGD
from decollapse.sam import SAM
from decollapse.terms.correlation_estimate import with_batch
from decollapse.terms.cross_entropy import CrossEntropy
from decollapse.terms.feddecorr import FedDecorr, Matrix, decorrelation_loss, trust
from decollapse.terms.memory_feddecorr import MemoryFedDecorr, remembering_decorrelation
from decollapse.tree import Tree

MATRICES: tuple[Matrix, ...] = ("correlation", "covariance")
SCALE = 63**2 / 64
NOTHING = ModelState({})
SAME = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64).repeat(16, 1)
OPPOSITE = SAME * torch.tensor([1.0, -1.0])


def step(features: Tensor, state: Tree, **layers: Tensor) -> Any:
    return SimpleNamespace(output=Output(torch.zeros(len(features), 2), features, layers), state=state)


def penalties(term: MemoryFedDecorr, batches: list[Tensor]) -> list[Tensor]:
    """The value in each batch of a round."""
    state, values = term.init_state(NOTHING), []
    for batch in batches:
        values.append(term(step(batch, state)))
        state = term.after_batch(step(batch, state))
    return values


def naive(batches: list[Tensor], memory: float) -> Tensor:
    """The penalty in the last of some batches, from all of them."""
    n, d = batches[-1].shape
    weights = [(len(batch) - 1) * memory**age for age, batch in enumerate(reversed(batches))][::-1]
    D = [torch.corrcoef(batch.T) - torch.eye(d, dtype=batch.dtype) for batch in batches]
    share = sum(weights[:-1]) / sum(weights)
    R = sum(w * each for w, each in zip(weights[:-1], D[:-1], strict=True)) / sum(weights[:-1])
    entries = (1 - share) * D[-1] ** 2 + share * (2 * R * D[-1] - R**2)
    return SCALE * trust(n) * entries.sum() / (d * (d - 1))


def test_three_batches_by_hand() -> None:
    # Correlations 1, -1, 1 and memory 1/2. Second: a = 1/3, R = 1. Third: R = (1/2 - 1) / (3/2) = -1/3, a = 3/7.
    first, second, third = penalties(MemoryFedDecorr(beta=1.0, memory=0.5), [SAME, OPPOSITE, SAME])
    assert first.item() / SCALE == pytest.approx(1.0)
    assert second.item() / SCALE == pytest.approx(2 / 3 + 1 / 3 * (-2 - 1))
    assert third.item() / SCALE == pytest.approx(4 / 7 + 3 / 7 * (-2 / 3 - 1 / 9))


@pytest.mark.parametrize("shapes", [[(20, 9)] * 4, [(9, 20)] * 3, [(20, 9), (20, 9), (5, 9)]])
@pytest.mark.parametrize("memory", [0.3, 0.9, 0.99])
def test_the_last_batch_pays_for_all(shapes: list[tuple[int, int]], memory: float) -> None:
    batches = [draw(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    *_, value = penalties(MemoryFedDecorr(beta=0.3, memory=memory, eps=1e-14), batches)
    torch.testing.assert_close(value, 0.3 * naive(batches, memory), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("memory", [0.0, 0.5, 0.99])
def test_a_batch_that_repeats_has_feddecorrs_gradient_whatever_the_memory(memory: float, matrix: Matrix) -> None:
    features, known = draw(20, 9), {}
    for _ in range(5):
        known = with_batch(known, features, memory=memory, matrix=matrix, eps=1e-8)
    ours = gradient(partial(remembering_decorrelation, known=known, memory=memory, matrix=matrix), features)
    theirs = gradient(partial(decorrelation_loss, matrix=matrix), features)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("matrix", MATRICES)
def test_the_gradient_passes_gradcheck_and_leaves_the_past_out(matrix: Matrix) -> None:
    past = draw(7, 5, seed=1).requires_grad_()
    known = with_batch({}, past, memory=0.9, matrix=matrix, eps=1e-8)
    loss = partial(remembering_decorrelation, known=known, memory=0.9, matrix=matrix)
    assert torch.autograd.gradcheck(loss, (draw(7, 5).requires_grad_(),))
    loss(draw(7, 5).requires_grad_()).backward()
    assert past.grad is None


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6])
def test_the_squared_correlation_of_a_batch_has_the_bias_that_the_module_states(rho: float) -> None:
    n, generator = 64, torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 100_000, n, generator=generator)
    y = rho * x + math.sqrt(1 - rho**2) * y
    x, y = (z - z.mean(1, keepdim=True) for z in (x, y))
    squared = (x * y).sum(1).square() / (x.square().sum(1) * y.square().sum(1))
    bias = (1 - rho**2) * (1 - 2 * rho**2) / n
    assert squared.mean().item() - rho**2 == pytest.approx(bias, abs=1e-3)


def test_memory_lowers_the_noise_of_the_gradient_and_keeps_its_mean() -> None:
    # Features h M of a linear layer M: the gradient at M, over batches of h.
    generator = torch.Generator().manual_seed(0)
    M = torch.randn(12, 40, generator=generator)
    batches = torch.randn(200, 16, 12, generator=generator)

    def gradients(memory: float) -> Tensor:
        known: Tree = {}
        found = []
        for h in batches:
            found.append(
                gradient(lambda m, h=h, known=known: remembering_decorrelation(h @ m, known, memory=memory), M)
            )
            known = with_batch(known, h @ M, memory=memory, matrix="correlation", eps=1e-8)
        return torch.stack(found[50:])

    alone, remembered = gradients(0.0), gradients(0.9)
    assert torch.cosine_similarity(alone.mean(0).flatten(), remembered.mean(0).flatten(), dim=0) > 0.98
    assert remembered.mean(0).norm() == pytest.approx(alone.mean(0).norm(), rel=0.25)
    assert remembered.var(0).sum() < 0.8 * alone.var(0).sum()


@pytest.mark.parametrize("sizes", [[1, 20, 20], [0, 20, 20], [20, 1, 20], [20, 2, 20]])
def test_batches_of_few_examples_are_finite_and_move_nothing(sizes: list[int]) -> None:
    batches = [draw(n, 6, seed=n).requires_grad_() for n in sizes]
    for batch, value in zip(batches, penalties(MemoryFedDecorr(), batches), strict=True):
        (grad,) = torch.autograd.grad(value, batch)
        assert value.isfinite()
        assert grad.isfinite().all()
        assert grad.any() == (len(batch) > 2)


def test_a_unit_that_is_silent_in_a_batch_but_known_is_left_alone() -> None:
    now = draw(20, 5)
    now[:, 2] = 0.0
    known = with_batch({}, draw(20, 5, seed=1), memory=0.9, matrix="correlation", eps=1e-8)
    grad = gradient(partial(remembering_decorrelation, known=known, memory=0.9), now)
    assert not grad[:, 2].any()
    assert grad.abs().max() < 100


def test_layers_are_remembered_apart_and_averaged() -> None:
    both = MemoryFedDecorr(layers=("features", "stage"))
    assert isinstance(both, LayerTerm)
    state: Tree = {}
    alone: list[Tree] = [{}, {}]
    for seed in range(3):
        z, stage = draw(9, 5, seed=seed), draw(9, 3, seed=10 + seed)
        one = [MemoryFedDecorr()(step(each, known)) for each, known in zip((z, stage), alone, strict=True)]
        torch.testing.assert_close(both(step(z, state, stage=stage)), (one[0] + one[1]) / 2)
        state = both.after_batch(step(z, state, stage=stage))
        alone = [
            MemoryFedDecorr().after_batch(step(each, known)) for each, known in zip((z, stage), alone, strict=True)
        ]


# In local training.


class Watched(MemoryFedDecorr):
    """Notes the features and what was known in each call."""

    calls: list[tuple[Tensor, Tree]] = []  # noqa: RUF012  # shared by what dataclasses make equal

    def __call__(self, step: Step) -> Tensor:
        self.calls.append((step.output.features.detach().clone(), step.state))
        return super().__call__(step)


def train(**changes: Any) -> tuple[Any, Any, list[float]]:
    """The result, the state, and the weight of what was known in each call."""
    Watched.calls.clear()
    model = noisy_network()
    update = ClientUpdate((CrossEntropy(), Watched(memory=0.5)), epochs=2, batch_size=8)
    result, state = replace(update, **changes)(model, one_client(20), Broadcast(1, ModelState.of(model), seed=0), {})
    return result, state, [float(known.get("features/weight", torch.tensor(0.0))) for _, known in Watched.calls]


def test_in_a_round_every_batch_counts_once_and_nothing_is_kept_after_it() -> None:
    # Batches of 8, 8, 4, twice.
    result, state, weights = train()
    expected = [0.0]
    for n in (8, 8, 4, 8, 8):
        expected.append(expected[-1] / 2 + n - 1)
    assert weights == expected
    assert (state, result.extras) == ({}, {})


def test_an_optimiser_that_asks_twice_sees_the_same_memory_twice() -> None:
    _, _, once = train()
    _, _, twice = train(optimizer=SAM(base=SGD()))
    assert twice == [weight for weight in once for _ in range(2)]
    (first, _), (again, _), (_, known), *_ = Watched.calls
    assert not torch.equal(first, again)  # elsewhere than at the current weights
    expected = with_batch({}, first, memory=0.5, matrix="correlation", eps=1e-8)
    assert torch.equal(known["features/sum"], expected["sum"])


def test_strength_zero_remembers_nothing() -> None:
    term = MemoryFedDecorr(beta=0.0)
    nothing = term(step(torch.full((4, 3), torch.nan), {}))
    assert nothing.item() == 0.0
    assert term.after_batch(step(draw(4, 3), {})) == {}
    assert isinstance(term, BatchwiseTerm)
    assert not isinstance(term, SendingTerm)


@pytest.mark.parametrize("memory", [-0.1, 1.0, math.nan])
def test_a_memory_that_is_no_share_is_refused(memory: float) -> None:
    with pytest.raises(ValueError, match="memory is what is left of the past, from 0 to below 1, got"):
        MemoryFedDecorr(memory=memory)


def test_without_memory_it_is_feddecorr_bit_for_bit() -> None:
    batches = [draw(9, 5, seed=seed) for seed in range(3)]
    for batch, value in zip(batches, penalties(MemoryFedDecorr(memory=0.0), batches), strict=True):
        assert torch.equal(value, FedDecorr()(step(batch, {})))
