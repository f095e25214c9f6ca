from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decollapse.terms.vacant_classes import (
    LogitSuppression,
    VacantDistillation,
    logit_suppression,
    vacant_distillation,
)

COUNTS = torch.tensor([6, 0, 3, 0, 0])
Y = torch.tensor([0, 2, 2, 0, 0, 0])


def draw(seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def step_of(
    student: torch.Tensor, teacher: torch.Tensor | None = None, y: torch.Tensor = Y, counts: torch.Tensor = COUNTS
) -> Any:
    anchor = object()

    def frozen(model: object) -> Any:
        assert model is anchor
        assert teacher is not None, "the teacher was asked for"
        return SimpleNamespace(logits=teacher)

    output, data = SimpleNamespace(logits=student), SimpleNamespace(class_counts=counts)
    return SimpleNamespace(output=output, y=y, data=data, anchor=anchor, frozen=frozen)


def naive_distillation(student: torch.Tensor, teacher: torch.Tensor, vacant: list[int]) -> float:
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = ([math.exp(row[c]) for c in vacant] for row in (s, t))
        total += sum(q_c / sum(q) * math.log(q_c / sum(q) / (p_c / sum(p))) for q_c, p_c in zip(q, p, strict=True))
    return total / len(student)


def naive_suppression(scores: torch.Tensor, y: torch.Tensor, counts: list[int]) -> float:
    total = 0.0
    for c, count in enumerate(counts):
        share = count / sum(counts)
        odds = [
            1.0 if label == c else math.exp(row[c]) / (share + 1e-9) / len(counts)
            for row, label in zip(scores.tolist(), y.tolist(), strict=True)
        ]
        total += share * math.log(sum(odds) / len(odds))
    return total


def test_distillation_of_a_quarter_and_three_quarters_against_halves_by_hand() -> None:
    teacher = torch.tensor([[5.0, math.log(0.25), math.log(0.75)]])
    loss = vacant_distillation(torch.tensor([[-3.0, 1.0, 1.0]]), teacher, torch.tensor([8, 0, 0]))
    assert loss.item() == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))


def test_distillation_is_the_sum_of_the_definition() -> None:
    loss = VacantDistillation(strength=0.7)(step_of(draw(0), draw(1)))
    assert loss.item() == pytest.approx(0.7 * naive_distillation(draw(0), draw(1), [1, 3, 4]), rel=1e-12)


def test_distillation_leaves_the_present_classes_alone() -> None:
    student = draw(0).requires_grad_()
    (gradient,) = torch.autograd.grad(vacant_distillation(student, draw(1), COUNTS), student)
    assert (gradient[:, [0, 2]] == 0).all()
    assert (gradient[:, [1, 3, 4]] != 0).all()


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = draw(0).requires_grad_(), draw(1).requires_grad_()
    vacant_distillation(student, teacher, COUNTS).backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_at_the_first_step_distillation_and_its_gradient_are_zero() -> None:
    student = draw(0).requires_grad_()
    loss = VacantDistillation()(step_of(student, draw(0)))
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss == 0
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("counts", [[1, 2, 3, 4, 5], [1, 0, 3, 4, 5]])
def test_with_fewer_than_two_vacant_classes_there_is_nothing_to_distil(counts: list[int]) -> None:
    student = draw(0).requires_grad_()
    loss = vacant_distillation(student, draw(1), torch.tensor(counts))
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss == 0
    assert (gradient == 0).all()
    assert VacantDistillation()(step_of(student, teacher=None, counts=torch.tensor(counts))) == 0


def test_suppression_by_hand() -> None:
    scores = torch.tensor([[9.0, math.log(2)], [0.0, 9.0]])
    loss = logit_suppression(scores, torch.tensor([0, 1]), torch.tensor([1, 1]))
    assert loss.item() == pytest.approx(0.5 * math.log((1 + 1) / 2) + 0.5 * math.log((2 + 1) / 2))


def test_suppression_of_a_rare_class_by_hand() -> None:
    loss = logit_suppression(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([3, 1]))  # e^0 / (1/4) / 2 = 2
    assert loss.item() == pytest.approx(0.75 * math.log(1) + 0.25 * math.log(2))


def test_suppression_is_the_sum_of_the_definition() -> None:
    loss = LogitSuppression(strength=0.3)(step_of(draw(0)))
    assert loss.item() == pytest.approx(0.3 * naive_suppression(draw(0), Y, COUNTS.tolist()), rel=1e-12)


def test_suppression_pushes_wrong_logits_of_present_classes_and_nothing_else() -> None:
    scores = draw(0).requires_grad_()
    (gradient,) = torch.autograd.grad(logit_suppression(scores, Y, COUNTS), scores)
    wrong_and_present = (COUNTS > 0) & ~torch.nn.functional.one_hot(Y, 5).bool()
    assert (gradient[wrong_and_present] > 0).all()
    assert (gradient[~wrong_and_present] == 0).all()


@settings(deadline=None)
@given(seed=st.integers(0, 1000), order=st.permutations(range(6)))
def test_the_order_of_the_examples_does_not_matter(seed: int, order: list[int]) -> None:
    student, teacher = draw(seed), draw(seed + 1)
    distilled = vacant_distillation(student[order], teacher[order], COUNTS)
    torch.testing.assert_close(distilled, vacant_distillation(student, teacher, COUNTS))
    suppressed = logit_suppression(student[order], Y[order], COUNTS)
    torch.testing.assert_close(suppressed, logit_suppression(student, Y, COUNTS))


def test_the_gradients_are_those_of_the_values() -> None:
    scores = draw(0).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: vacant_distillation(x, draw(1), COUNTS), scores)
    assert torch.autograd.gradcheck(lambda x: logit_suppression(x, Y, COUNTS), scores)


@pytest.mark.parametrize("term", [VacantDistillation, LogitSuppression])
def test_strength_zero_is_a_constant_zero_without_asking_for_the_teacher(term: Any) -> None:
    loss = term(strength=0.0)(step_of(draw(0).requires_grad_(), teacher=None))
    assert loss == 0
    assert not loss.requires_grad


@pytest.mark.parametrize("term", [VacantDistillation, LogitSuppression])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_precision_is_that_of_the_logits(term: Any, dtype: torch.dtype) -> None:
    assert term()(step_of(draw(0, dtype), draw(1, dtype))).dtype == dtype


@pytest.mark.parametrize("term", [VacantDistillation(), LogitSuppression()])
@pytest.mark.parametrize(
    ("student", "teacher", "y", "counts"),
    [
        pytest.param([[1.0, -2.0, 0.5]], [[0.0, 1.0, 2.0]], [0], [4, 0, 0], id="one example"),
        pytest.param([[1.0, -2.0, 0.5]] * 3, [[0.0, 1.0, 2.0]] * 3, [2, 2, 2], [0, 0, 3], id="identical, one class"),
        pytest.param([[1e4, -1e4, 1e4]], [[-1e4, 1e4, -1e4]], [1], [0, 9, 0], id="large logits"),
    ],
)
def test_loss_and_gradient_are_finite(
    term: Any, student: list[list[float]], teacher: list[list[float]], y: list[int], counts: list[int]
) -> None:
    x = torch.tensor(student, requires_grad=True)
    loss = term(step_of(x, torch.tensor(teacher), torch.tensor(y), torch.tensor(counts)))
    (gradient,) = torch.autograd.grad(loss, x)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("term", [VacantDistillation, LogitSuppression])
@pytest.mark.parametrize("strength", [-0.1, math.inf, math.nan])
def test_a_strength_is_finite_and_not_negative(term: Any, strength: float) -> None:
    with pytest.raises(ValueError, match="strength is a strength, a finite number from 0 on, got"):
        term(strength=strength)
