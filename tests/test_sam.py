"""Sharpness-aware minimisation: where it looks, that it comes back, and that rho 0 is the base optimiser."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from decollapse.optim import SGD, Adam, LocalOptimizer
from decollapse.sam import SAM, perturbation

PLAIN = SGD(lr=0.1, momentum=0.0)


class Quadratic:
    """`f(w) = 1/2 sum_j a_j w_j^2 + b_j w_j` over several tensors, and a closure that counts its calls."""

    def __init__(self, *starts: Tensor) -> None:
        self.params = [nn.Parameter(start.clone()) for start in starts]
        self.a = [torch.arange(1, start.numel() + 1).to(start).view(start.shape) for start in starts]
        self.visited: list[list[Tensor]] = []
        self.optimizer: torch.optim.Optimizer | None = None

    def closure(self) -> Any:
        assert self.optimizer is not None
        self.optimizer.zero_grad()
        self.visited.append([param.detach().clone() for param in self.params])
        loss = sum((0.5 * a * p.square() + p).sum() for a, p in zip(self.a, self.params, strict=True))
        loss.backward()
        return loss

    def run(self, recipe: LocalOptimizer, steps: int = 1) -> list[Any]:
        self.optimizer = recipe(iter(self.params))
        return [self.optimizer.step(self.closure) for _ in range(steps)]


def starts(dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(shape, generator=generator, dtype=dtype) for shape in ((3, 4), (5,), ()))


# Where it looks.


def test_the_perturbation_by_hand() -> None:
    (eps,) = perturbation([torch.zeros(2)], [torch.tensor([3.0, 4.0])], rho=0.05)
    assert eps.tolist() == pytest.approx([0.03, 0.04])


def test_the_norm_is_over_all_parameters_together() -> None:
    one, other = perturbation([torch.zeros(1)] * 2, [torch.tensor([3.0]), torch.tensor([4.0])], rho=0.05)
    assert [one.item(), other.item()] == pytest.approx([0.03, 0.04])


def test_the_adaptive_perturbation_by_hand() -> None:
    (eps,) = perturbation([torch.tensor([[2.0, 0.5]])], [torch.tensor([[3.0, 4.0]])], rho=0.5, eta=0.01)
    assert eps[0].tolist() == pytest.approx([0.95200, 0.08172], abs=5e-6)


def test_vectors_are_not_scaled_by_the_adaptive_form() -> None:
    weights, bias = torch.tensor([[2.0]]), torch.tensor([7.0])
    gradients = [torch.tensor([[1.0]]), torch.tensor([1.0])]
    by_weight, by_bias = perturbation([weights, bias], gradients, rho=1.0, eta=1.0)
    norm = math.sqrt(3**2 + 1)
    assert [by_weight.item(), by_bias.item()] == pytest.approx([9 / norm, 1 / norm])


def test_a_gradient_of_zero_perturbs_nothing() -> None:
    for eta in (None, 0.01):
        (eps,) = perturbation([torch.ones(2, 2)], [torch.zeros(2, 2)], rho=0.5, eta=eta)
        assert torch.equal(eps, torch.zeros(2, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("adaptive", [False, True])
def test_a_step_is_the_base_step_with_the_gradient_uphill(adaptive: bool, dtype: torch.dtype) -> None:
    rho, eta, lr = 0.3, 0.2, 0.1
    problem = Quadratic(*starts(dtype))
    before = [param.detach().clone().double() for param in problem.params]
    problem.run(SAM(SGD(lr=lr, momentum=0.0), rho=rho, adaptive=adaptive, eta=eta))
    scales = [w.abs() + eta if adaptive and w.ndim > 1 else torch.ones_like(w) for w in before]
    gradients = [a.double() * w + 1 for a, w in zip(problem.a, before, strict=True)]
    norm = math.sqrt(sum(((t * g) ** 2).sum().item() for t, g in zip(scales, gradients, strict=True)))
    for a, w, t, g, after in zip(problem.a, before, scales, gradients, problem.params, strict=True):
        uphill = w + rho * t * t * g / norm
        torch.testing.assert_close(after.detach().double(), w - lr * (a.double() * uphill + 1), rtol=1e-5, atol=1e-6)


def test_the_second_pass_is_rho_away_from_the_first() -> None:
    problem = Quadratic(*starts(torch.float64))
    problem.run(SAM(PLAIN, rho=0.3))
    first, second = problem.visited
    assert sum((b - a).square().sum() for a, b in zip(first, second, strict=True)).sqrt().item() == pytest.approx(0.3)


# That it comes back.


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_base_optimiser_steps_from_the_weights_bit_by_bit(adaptive: bool) -> None:
    class Frozen:
        """A base whose step moves nothing, so that what is left is what SAM did."""

        def __call__(self, params: Any) -> torch.optim.Optimizer:
            return torch.optim.SGD(params, lr=0.0)

        def step_size(self, num_steps: int, *, pull: float = 0.0) -> None:
            return None

    weights = tuple(leaf * 10.0**k for k, leaf in zip((-6, 0, 6), starts(), strict=True))
    problem = Quadratic(*weights)
    problem.run(SAM(Frozen(), rho=0.7, adaptive=adaptive), steps=3)
    assert all(torch.equal(param, w) for param, w in zip(problem.params, weights, strict=True))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_weights_are_back_when_the_second_pass_raises(error: type[BaseException]) -> None:
    problem = Quadratic(*starts())
    optimizer = problem.optimizer = SAM(PLAIN, rho=0.3)(problem.params)

    def failing() -> Any:
        if problem.visited:
            raise error
        return problem.closure()

    with pytest.raises(error):
        optimizer.step(failing)
    assert all(torch.equal(param, w) for param, w in zip(problem.params, starts(), strict=True))


def test_the_loss_is_that_at_the_weights_and_not_uphill() -> None:
    problem, other = Quadratic(*starts()), Quadratic(*starts())
    assert problem.run(SAM(PLAIN, rho=0.3)) == other.run(PLAIN)


@pytest.mark.parametrize("base", [SGD(momentum=0.9, weight_decay=0.1), Adam()])
def test_the_state_of_the_base_has_seen_one_gradient_a_step(base: LocalOptimizer) -> None:
    problem = Quadratic(*starts(torch.float64))
    optimizer = problem.optimizer = SAM(base, rho=0.3)(problem.params)
    reference = [nn.Parameter(start) for start in starts(torch.float64)]
    expected = base(reference)
    for _ in range(3):
        optimizer.step(problem.closure)
        for param, a, uphill in zip(reference, problem.a, problem.visited[-1], strict=True):
            param.grad = a * uphill + 1
        expected.step()
    for param, other in zip(problem.params, reference, strict=True):
        torch.testing.assert_close(param, other, rtol=1e-12, atol=1e-12)


def test_parameters_without_a_gradient_stay_and_take_no_part_in_the_norm() -> None:
    used, unused, frozen = (nn.Parameter(torch.ones(1, dtype=torch.float64)) for _ in range(3))
    frozen.requires_grad_(False)
    optimizer = SAM(PLAIN, rho=0.5)([used, unused, frozen])
    seen: list[float] = []

    def closure() -> Any:
        optimizer.zero_grad()
        seen.append(used.item())
        loss = used.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert seen == pytest.approx([1.0, 1.5])
    assert (unused.item(), frozen.item()) == (1.0, 1.0)


def test_with_nothing_to_train_nothing_happens() -> None:
    param = nn.Parameter(torch.ones(2))
    assert SAM(PLAIN)([param]).step(lambda: 3.0) == 3.0
    assert torch.equal(param, torch.ones(2))


# rho 0, the recipe, and its ranges.


@pytest.mark.parametrize("base", [SGD(momentum=0.9), Adam()])
def test_rho_zero_is_the_base_optimiser_bit_by_bit_with_one_pass_a_step(base: LocalOptimizer) -> None:
    problem, other = Quadratic(*starts()), Quadratic(*starts())
    assert problem.run(SAM(base, rho=0.0, adaptive=True), steps=3) == other.run(base, steps=3)
    assert len(problem.visited) == 3
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(problem.params, other.params, strict=True))


def test_a_step_takes_two_passes() -> None:
    problem = Quadratic(*starts())
    problem.run(SAM(), steps=3)
    assert len(problem.visited) == 6


def test_the_closure_runs_with_gradients_on() -> None:
    problem = Quadratic(*starts())
    problem.optimizer = SAM(PLAIN)(problem.params)
    enabled: list[bool] = []
    run: Callable[[], Any] = problem.closure

    def closure() -> Any:
        enabled.append(torch.is_grad_enabled())
        return run()

    with torch.no_grad():
        problem.optimizer.step(closure)
    assert enabled == [True, True]


def test_a_step_without_a_closure_is_refused() -> None:
    with pytest.raises(TypeError, match="needs a closure"):
        SAM()([nn.Parameter(torch.ones(2))]).step()


def test_the_step_size_is_the_bases() -> None:
    assert SAM(SGD(lr=0.1, momentum=0.9)).step_size(3, pull=1.0) == SGD(lr=0.1, momentum=0.9).step_size(3, pull=1.0)
    assert SAM(Adam()).step_size(3) is None


def test_a_recipe_pickles() -> None:
    recipe = SAM(Adam(lr=0.1), rho=0.5, adaptive=True)
    assert pickle.loads(pickle.dumps(recipe)) == recipe


@pytest.mark.parametrize(
    ("setting", "value"),
    [("rho", -0.1), ("rho", math.inf), ("rho", math.nan), ("eta", 0.0), ("eta", math.inf), ("eta", math.nan)],
)
def test_a_setting_out_of_range_is_refused(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{setting} .*got {value}"):
        SAM(**{setting: value})


def test_sam_of_sam_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be SAM"):
        SAM(base=SAM())
