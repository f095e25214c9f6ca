from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from decollapse.terms.quadratic import linear_and_quadratic
from decollapse.tree import Tree

SHAPES = {"a": (3, 2), "b": (4,), "c": ()}


def tree(seed: int, dtype: torch.dtype = torch.float64) -> Tree:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in SHAPES.items()}


def live(seed: int, dtype: torch.dtype = torch.float64) -> Tree:
    return {name: leaf.requires_grad_() for name, leaf in tree(seed, dtype).items()}


CASES = [(False, 1.7), (True, 0.0), (True, 1.7)]


def test_the_value_by_hand() -> None:
    # w - center = (2, -1): 3 * 2 + 5 * -1 + 0.5 * 4 * (4 + 1)
    value = linear_and_quadratic(
        {"w": torch.tensor([3.0, 0.0], requires_grad=True)},
        {"w": torch.tensor([1.0, 1.0])},
        linear={"w": torch.tensor([3.0, 5.0])},
        strength=4.0,
    )
    assert value.item() == 11.0


def test_the_gradient_by_hand() -> None:
    w = torch.tensor([3.0, 0.0], requires_grad=True)
    linear_and_quadratic(
        {"w": w}, {"w": torch.tensor([1.0, 1.0])}, linear={"w": torch.tensor([3.0, 5.0])}, strength=4.0
    ).backward()
    assert w.grad is not None
    assert w.grad.tolist() == [11.0, 1.0]


@pytest.mark.parametrize(("with_linear", "strength"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_what_autograd_makes_of_the_formula(with_linear: bool, strength: float, dtype: torch.dtype) -> None:
    params, center, linear = live(0, dtype), tree(1, dtype), tree(2, dtype) if with_linear else None
    ours = linear_and_quadratic(params, center, linear=linear, strength=strength)
    naive = sum(
        ((linear or {}).get(name, torch.zeros_like(w)) * (w - center[name])).sum()
        + strength / 2 * ((w - center[name]) ** 2).sum()
        for name, w in params.items()
    )
    assert isinstance(naive, Tensor)
    torch.testing.assert_close(ours, naive)
    leaves = list(params.values())
    for mine, theirs in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(naive, leaves), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(("with_linear", "strength"), CASES)
def test_first_and_second_derivatives_are_those_of_finite_differences(with_linear: bool, strength: float) -> None:
    center, linear = tree(1), tree(2) if with_linear else None

    def value(*leaves: Tensor) -> Tensor:
        return linear_and_quadratic(dict(zip(SHAPES, leaves, strict=True)), center, linear=linear, strength=strength)

    leaves = tuple(live(0).values())
    assert torch.autograd.gradcheck(value, leaves)
    assert torch.autograd.gradgradcheck(value, leaves)


def test_a_second_derivative_is_not_lost_beside_other_summands() -> None:
    w = torch.tensor([3.0], requires_grad=True)
    loss = w.pow(3).sum() + linear_and_quadratic({"w": w}, {"w": torch.zeros(1)}, strength=5.0)
    (first,) = torch.autograd.grad(loss, w, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), w)
    assert second.tolist() == [6 * 3.0 + 5.0]


def test_used_twice_in_one_loss_gradients_add_up() -> None:
    params, center, linear = live(0), tree(1), tree(2)
    once = linear_and_quadratic(params, center, linear=linear, strength=2.0)
    again = linear_and_quadratic(params, tree(3), strength=0.5)
    leaves = list(params.values())
    together = torch.autograd.grad(3 * once + again, leaves, retain_graph=True)
    first, second = torch.autograd.grad(once, leaves, retain_graph=True), torch.autograd.grad(again, leaves)
    for total, one, other in zip(together, first, second, strict=True):
        torch.testing.assert_close(total, 3 * one + other)


def test_two_backward_passes_give_the_same_gradient() -> None:
    params = live(0)
    value = linear_and_quadratic(params, tree(1), linear=tree(2), strength=2.0)
    leaves = list(params.values())
    first, second = (torch.autograd.grad(value, leaves, retain_graph=True) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_a_parameter_without_a_gradient_counts_in_the_value_and_gets_none() -> None:
    params = live(0)
    params["b"].requires_grad_(False)
    value = linear_and_quadratic(params, tree(1), linear=tree(2), strength=2.0)
    torch.testing.assert_close(value, linear_and_quadratic(live(0), tree(1), linear=tree(2), strength=2.0))
    value.backward()
    assert params["b"].grad is None
    torch.testing.assert_close(params["a"].grad, tree(2)["a"] + 2.0 * (params["a"].detach() - tree(1)["a"]))


def test_without_any_parameter_to_train_it_is_a_constant() -> None:
    value = linear_and_quadratic(tree(0), tree(1), strength=2.0)
    assert not value.requires_grad


def test_arguments_are_left_alone_and_get_no_gradient() -> None:
    params, center, linear = live(0), live(1), live(2)
    before = copy.deepcopy([params, center, linear])
    linear_and_quadratic(params, center, linear=linear, strength=2.0).backward()
    for now, then in zip([params, center, linear], before, strict=True):
        assert all(torch.equal(leaf, then[name]) for name, leaf in now.items())
    assert all(leaf.grad is None for leaf in [*center.values(), *linear.values()])


def test_the_gradient_is_of_the_weights_as_they_were_when_an_optimiser_moves_them_in_place() -> None:
    w = torch.tensor([3.0], requires_grad=True)
    value = linear_and_quadratic({"w": w}, {"w": torch.zeros(1)}, strength=2.0)
    with torch.no_grad():
        w.add_(100.0)
    value.backward()
    assert w.grad is not None
    assert w.grad.tolist() == [6.0]


def test_names_decide_and_not_the_order() -> None:
    params = live(0)
    reordered = {name: tree(1)[name] for name in reversed(SHAPES)}
    linear = {name: tree(2)[name] for name in reversed(SHAPES)}
    torch.testing.assert_close(
        linear_and_quadratic(params, reordered, linear=linear, strength=2.0),
        linear_and_quadratic(params, tree(1), linear=tree(2), strength=2.0),
    )


def test_memory_layouts_may_differ() -> None:
    generator = torch.Generator().manual_seed(0)
    w, center, linear = torch.randn(3, 2, 3, 4, 5, generator=generator, dtype=torch.float64)
    expected = linear_and_quadratic({"w": w}, {"w": center}, linear={"w": linear}, strength=2.0)
    param = w.to(memory_format=torch.channels_last).requires_grad_()
    value = linear_and_quadratic({"w": param}, {"w": center}, linear={"w": linear}, strength=2.0)
    torch.testing.assert_close(value, expected)
    (gradient,) = torch.autograd.grad(value, param)
    torch.testing.assert_close(gradient, linear + 2.0 * (w - center))


def test_the_center_itself_is_a_value_and_quadratic_gradient_of_zero() -> None:
    params = live(0)
    value = linear_and_quadratic(params, {name: leaf.detach() for name, leaf in params.items()}, strength=2.0)
    value.backward()
    assert value.item() == 0.0
    for leaf in params.values():
        assert leaf.grad is not None
        assert not leaf.grad.any()


def test_vmap_takes_it() -> None:
    center, linear = torch.tensor([1.0, 1.0]), torch.tensor([3.0, 5.0])
    stacked = torch.tensor([[3.0, 0.0], [1.0, 1.0]])

    def value(w: Tensor) -> Tensor:
        return linear_and_quadratic({"w": w}, {"w": center}, linear={"w": linear}, strength=4.0)

    assert torch.vmap(value)(stacked).tolist() == [11.0, 0.0]
    assert torch.vmap(torch.func.grad(value))(stacked).tolist() == [[11.0, 1.0], [3.0, 5.0]]
