from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decollapse.terms.not_true_distillation import NotTrueDistillation, not_true_distillation

Y = torch.tensor([0, 3, 1, 1, 2])


def draw(seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def step_of(student: torch.Tensor, teacher: torch.Tensor, y: torch.Tensor = Y) -> Any:
    anchor = object()

    def frozen(model: object) -> Any:
        assert model is anchor
        return SimpleNamespace(logits=teacher)

    return SimpleNamespace(output=SimpleNamespace(logits=student), y=y, anchor=anchor, frozen=frozen)


def naive(student: torch.Tensor, teacher: torch.Tensor, y: torch.Tensor, temperature: float) -> float:
    total = 0.0
    for s, t, label in zip(student.tolist(), teacher.tolist(), y.tolist(), strict=True):
        p, q = ({c: math.exp(v / temperature) for c, v in enumerate(row) if c != label} for row in (s, t))
        for c in p:
            q_c, p_c = q[c] / sum(q.values()), p[c] / sum(p.values())
            total += q_c * math.log(q_c / p_c)
    return temperature**2 * total / len(y)


def test_a_quarter_and_three_quarters_against_halves_by_hand() -> None:
    teacher = torch.tensor([[math.log(0.25), 5.0, math.log(0.75)]])
    loss = not_true_distillation(torch.tensor([[1.0, -3.0, 1.0]]), teacher, torch.tensor([1]))
    assert loss.item() == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert loss.item() == pytest.approx(0.13081, abs=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_it_is_the_sum_of_the_definition(temperature: float) -> None:
    loss = NotTrueDistillation(beta=0.7, temperature=temperature)(step_of(draw(0), draw(1)))
    assert loss.item() == pytest.approx(0.7 * naive(draw(0), draw(1), Y, temperature), rel=1e-12)


def test_it_is_the_mean_over_the_batch() -> None:
    each = [not_true_distillation(draw(0)[[i]], draw(1)[[i]], Y[[i]]) for i in range(5)]
    torch.testing.assert_close(not_true_distillation(draw(0), draw(1), Y), torch.stack(each).mean())


def test_the_true_logit_takes_no_part_and_gets_no_gradient() -> None:
    student = draw(0).requires_grad_()
    loss = not_true_distillation(student, draw(1), Y)
    (gradient,) = torch.autograd.grad(loss, student)
    true = torch.nn.functional.one_hot(Y, 4).bool()
    assert (gradient[true] == 0).all()
    assert (gradient[~true] != 0).all()
    moved = not_true_distillation(draw(0) + 100 * true, draw(1) - 100 * true, Y)
    torch.testing.assert_close(moved, loss.detach(), rtol=0, atol=0)


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = draw(0).requires_grad_(), draw(1).requires_grad_()
    not_true_distillation(student, teacher, Y).backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_at_the_first_step_loss_and_gradient_are_zero() -> None:
    student = draw(0).requires_grad_()
    loss = NotTrueDistillation()(step_of(student, draw(0)))
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss == 0
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def test_beta_zero_is_zero_without_asking_for_the_teacher() -> None:
    step = step_of(draw(0), draw(1))
    step.frozen = None
    assert NotTrueDistillation(beta=0.0)(step) == 0


@settings(deadline=None)
@given(shift=st.floats(-10, 10), seed=st.integers(0, 1000))
def test_it_is_not_negative_and_blind_to_a_shift_of_all_logits(shift: float, seed: int) -> None:
    loss = not_true_distillation(draw(seed), draw(seed + 1), Y)
    assert loss >= 0
    torch.testing.assert_close(not_true_distillation(draw(seed) + shift, draw(seed + 1), Y), loss)


def test_the_gradient_is_that_of_the_value() -> None:
    assert torch.autograd.gradcheck(
        lambda x: not_true_distillation(x, draw(1), Y, temperature=2.0), draw(0).requires_grad_()
    )


@pytest.mark.parametrize("num_classes", [1, 2])
def test_up_to_two_classes_are_zero_with_a_gradient_of_zero(num_classes: int) -> None:
    student, teacher = torch.randn(3, num_classes, requires_grad=True), torch.randn(3, num_classes)
    loss = not_true_distillation(student, teacher, torch.zeros(3, dtype=torch.int64))
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize(
    ("student", "teacher", "y"),
    [
        pytest.param([[1.0, -2.0, 0.5]], [[0.0, 1.0, 2.0]], [0], id="one example"),
        pytest.param([[1.0, -2.0, 0.5]] * 3, [[0.0, 1.0, 2.0]] * 3, [2, 2, 2], id="identical examples of one class"),
        pytest.param([[1e4, -1e4, 1e4]], [[-1e4, 1e4, -1e4]], [0], id="large logits"),
    ],
)
def test_loss_and_gradient_are_finite(student: list[list[float]], teacher: list[list[float]], y: list[int]) -> None:
    x = torch.tensor(student, requires_grad=True)
    loss = NotTrueDistillation()(step_of(x, torch.tensor(teacher), torch.tensor(y)))
    (gradient,) = torch.autograd.grad(loss, x)
    assert loss.isfinite()
    assert gradient.isfinite().all()


def test_float32_stays_float32() -> None:
    loss = NotTrueDistillation()(step_of(draw(0, torch.float32), draw(1, torch.float32)))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(naive(draw(0), draw(1), Y, 1.0), rel=1e-5)


@pytest.mark.parametrize("beta", [-0.1, math.inf, math.nan])
def test_beta_is_a_strength(beta: float) -> None:
    with pytest.raises(ValueError, match="beta is a strength, a finite number from 0 on, got"):
        NotTrueDistillation(beta=beta)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_is_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive and finite, got"):
        NotTrueDistillation(temperature=temperature)
