"""The four measures by hand and by naive loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from decollapse.diagnosis.neural_collapse import NeuralCollapse, neural_collapse


def simplex(num_classes: int, d: int, *, seed: int = 0) -> Tensor:
    """Vectors of equal length and equal angles, turned at random into d dimensions."""
    frame = torch.eye(num_classes).double() - 1 / num_classes
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(d, num_classes, generator=generator).double()).Q
    return frame @ turn.T


def clusters(counts: tuple[int, ...], d: int, *, noise: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    means = torch.randn(len(counts), d, generator=generator)
    order = torch.randperm(len(y), generator=generator)
    y = y[order]
    return means[y] + noise * torch.randn(len(y), d, generator=generator) + 3.0, y


def naive(z: np.ndarray, y: np.ndarray, logits: np.ndarray, head: np.ndarray) -> NeuralCollapse:
    """Papyan, Han and Donoho's definitions, one example and one pair at a time."""
    classes = sorted(set(y.tolist()))
    num_classes, d = len(classes), z.shape[1]
    means = {c: np.mean([z[i] for i in range(len(z)) if y[i] == c], axis=0) for c in classes}
    center = np.mean(list(means.values()), axis=0)
    within, between = np.zeros((d, d)), np.zeros((d, d))
    for row, label in zip(z, y.tolist(), strict=True):
        within += np.outer(row - means[label], row - means[label]) / len(z)
    for c in classes:
        between += np.outer(means[c] - center, means[c] - center) / num_classes
    lengths = np.array([np.linalg.norm(means[c] - center) for c in classes])
    angles = []
    for c in classes:
        for other in classes:
            if c != other:
                a, b = means[c] - center, means[other] - center
                cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
                angles.append(abs(cosine + 1 / (num_classes - 1)))
    m, w = np.stack([means[c] - center for c in classes]), head[classes]
    wrong = 0
    for row, scores in zip(z, logits, strict=True):
        nearest = min(classes, key=lambda c: float(np.linalg.norm(row - means[c])))
        wrong += nearest != int(np.argmax(scores))

    def rank(matrix: np.ndarray) -> float:
        p = np.linalg.eigvalsh(matrix)
        p = p[p > 1e-12 * p.max()] / p.sum()
        return float(np.exp(-(p * np.log(p)).sum()))

    return NeuralCollapse(
        nc1=float(np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / num_classes),
        nc2_norms=float(np.std(lengths) / np.mean(lengths)),
        nc2_angles=float(np.mean(angles)),
        nc3=float(np.linalg.norm(w / np.linalg.norm(w) - m / np.linalg.norm(m))),
        nc4=wrong / len(z),
        between_rank=rank(between),
        within_rank=rank(within),
        num_classes=num_classes,
    )


def test_complete_neural_collapse_is_zero_in_every_measure_and_has_one_dimension_less_than_classes() -> None:
    means = simplex(4, 7)
    y = torch.arange(40) % 4
    features = means[y] + 5.0
    found = neural_collapse(features, y, logits=means[y] @ means.T, head=3 * means)
    assert (found.nc1, found.nc2_norms, found.nc2_angles, found.nc3) == pytest.approx((0, 0, 0, 0), abs=1e-7)
    assert found.nc4 == 0.0
    assert found.between_rank == pytest.approx(3.0)
    assert found.num_classes == 4


def test_two_classes_by_hand() -> None:
    # Means -2 and 2, within-class variance 1, between-class variance 4: NC1 is 1 / 4 / 2.
    z = torch.tensor([[-3.0], [-1.0], [1.0], [3.0]])
    found = neural_collapse(z, torch.tensor([0, 0, 1, 1]), head=torch.tensor([[1.0], [1.0]]))
    assert (found.nc1, found.nc2_norms, found.nc2_angles) == pytest.approx((0.125, 0.0, 0.0))
    assert found.nc3 == pytest.approx(math.sqrt(2))  # (1, 1) / sqrt 2 against (-1, 1) / sqrt 2


def test_lengths_and_angles_by_hand() -> None:
    # Means (3, 0), (-3, 0), (0, 0): centred lengths 3, 3, 0, cosines -1, 0, 0 against the simplex's -1/2.
    z = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 0.0]])
    found = neural_collapse(z, torch.tensor([0, 1, 2]))
    assert found.nc2_norms == pytest.approx(math.sqrt(2) / 2)
    assert found.nc2_angles == pytest.approx(0.5)
    assert found.between_rank == pytest.approx(1.0)
    assert found.within_rank == 0.0


@pytest.mark.parametrize("counts", [(5, 5), (10, 3, 7), (4, 4, 4, 4, 4, 1)])
@pytest.mark.parametrize("noise", [0.1, 2.0])
def test_every_measure_is_that_of_the_naive_loops(counts: tuple[int, ...], noise: float) -> None:
    z, y = clusters(counts, 5, noise=noise)
    generator = torch.Generator().manual_seed(9)
    head = torch.randn(len(counts), 5, generator=generator)
    logits = z @ head.T
    found = neural_collapse(z, y, logits=logits, head=head)
    arrays = (tensor.double().numpy() for tensor in (z, y, logits, head))
    expected = naive(*(array if index != 1 else y.numpy() for index, array in enumerate(arrays)))
    for name, value in vars(expected).items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-6), name


def test_a_class_without_examples_is_left_out_of_every_measure() -> None:
    z, y = clusters((6, 6, 6), 4, noise=0.3)
    head = torch.arange(12.0).reshape(3, 4)
    gap = torch.tensor([0, 2, 3])[y]  # the same examples, called classes 0, 2 and 3 of four
    wider = torch.stack([head[0], torch.full((4,), 1e3), head[1], head[2]])
    logits = z @ head.T
    with_gap = torch.stack([logits[:, 0], torch.full((18,), -1e9), logits[:, 1], logits[:, 2]], dim=1)
    assert neural_collapse(z, y, head=head, logits=logits) == neural_collapse(z, gap, head=wider, logits=with_gap)


def test_the_nearest_mean_is_compared_with_the_logits_and_not_with_the_label() -> None:
    z = torch.tensor([[-1.0], [-1.0], [1.0], [1.0]])
    y = torch.tensor([0, 0, 1, 1])
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    assert neural_collapse(z, y, logits=logits).nc4 == 0.25


def test_without_head_and_logits_their_measures_are_none() -> None:
    z, y = clusters((4, 4), 3, noise=1.0)
    found = neural_collapse(z, y)
    assert found.nc3 is None
    assert found.nc4 is None


@pytest.mark.parametrize("constant", [0.0, 0.1, -1e6])
def test_features_that_are_the_same_for_every_class_are_not_called_collapsed(constant: float) -> None:
    found = neural_collapse(torch.full((30, 4), constant), torch.arange(30) % 3, head=torch.ones(3, 4))
    assert all(math.isnan(value) for value in (found.nc1, found.nc2_norms, found.nc2_angles, found.nc3 or 0.0))
    assert found.between_rank == found.within_rank == 0.0


def test_a_head_of_zeros_has_no_direction() -> None:
    z, y = clusters((4, 4), 3, noise=1.0)
    found = neural_collapse(z, y, head=torch.zeros(2, 3))
    assert found.nc3 is not None
    assert math.isnan(found.nc3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 10.0), st.floats(-20.0, 20.0))
def test_rotation_scale_and_shift_change_nothing(seed: int, scale: float, shift: float) -> None:
    z, y = clusters((7, 5, 6), 4, noise=0.5)
    z = z.double()
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(seed)).double()).Q
    head = torch.arange(12.0, dtype=torch.float64).reshape(3, 4) - 5
    before = neural_collapse(z, y, head=head)
    after = neural_collapse(scale * z @ turn + shift, y, head=head @ turn)
    for name, value in vars(before).items():
        assert getattr(after, name) == (value if value is None else pytest.approx(value, rel=1e-6)), name


def test_more_noise_within_classes_is_more_nc1() -> None:
    y = torch.arange(300) % 3
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(300, 6, generator=generator).double()
    values = [neural_collapse(simplex(3, 6)[y] + s * noise, y).nc1 for s in (0.01, 0.1, 1.0)]
    assert values == sorted(values)


@pytest.mark.parametrize("num_classes", [0, 1])
def test_fewer_than_two_classes_are_refused(num_classes: int) -> None:
    n = 5 * num_classes
    with pytest.raises(ValueError, match=f"needs? at least 2 of them, got {num_classes}") as error:
        neural_collapse(torch.zeros(n, 2), torch.zeros(n, dtype=torch.int64))
    assert "neural collapse is about classes" in str(error.value)
