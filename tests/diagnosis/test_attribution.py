"""Ranks and likeness of features, by hand and against numpy and scipy."""

from __future__ import annotations

from dataclasses import replace
from math import nan

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from torch import Tensor

from decollapse.diagnosis.attribution import attribute, feature_rank, linear_cka, subspace_overlap


def draw(n: int, d: int, *, seed: int = 0, decay: float = 0.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=generator) / torch.arange(1, d + 1) ** decay
    return torch.randn(n, d, generator=generator) @ mixing + torch.randn(d, generator=generator)


def numpy_rank(features: np.ndarray) -> float:
    """By singular values of the centred features."""
    s = np.linalg.svd(features - features.mean(0), compute_uv=False) ** 2
    p = s[s > 1e-13 * s[0]] / s.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def numpy_z_scores(features: np.ndarray) -> np.ndarray:
    return (features - features.mean(0)) / features.std(0)


def numpy_cka(a: np.ndarray, b: np.ndarray) -> float:
    """By the Hilbert-Schmidt independence criterion with linear kernels: HSIC(K, L) = tr(K H L H) / (n - 1)^2."""
    n = len(a)
    h = np.eye(n) - np.ones((n, n)) / n
    k, m = a @ a.T, b @ b.T

    def hsic(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.trace(x @ h @ y @ h)) / (n - 1) ** 2

    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def numpy_directions(features: np.ndarray, k: int) -> np.ndarray:
    return np.linalg.svd(features - features.mean(0))[2][:k].T


# By hand

SQUARE = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
LINE = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [-1.0, -1.0], [1.0, 1.0]])


def test_ranks_by_hand() -> None:
    # Side by side: four columns, of which the third and fourth are the same direction twice. Their mean is
    # (x + s) / 2, (y + s) / 2, with x, y, s orthogonal: covariance [[2, 1], [1, 2]] / 4, of eigenvalues 3 and 1.
    found = attribute(LINE, [SQUARE, LINE])
    assert found.covariance.local == pytest.approx((2.0, 1.0))
    assert found.covariance.averaged == pytest.approx(1.0)
    assert found.covariance.concatenated == pytest.approx(2**1.5)  # eigenvalues 2, 1, 1: exp(1.5 ln 2)
    assert found.covariance.mean == pytest.approx((4 / 3) ** 0.75 * 4**0.25)
    assert (found.num_examples, found.num_features, found.num_dead) == (4, 2, 0)


def test_scale_counts_for_the_covariance_and_not_for_the_correlation() -> None:
    stretched = SQUARE * torch.tensor([10.0, 0.1])
    found = attribute(stretched, [stretched])
    assert found.covariance.averaged == pytest.approx(1.0, abs=2e-3)
    assert found.correlation.averaged == pytest.approx(2.0)


def test_a_constant_dimension_is_dead_and_no_rank() -> None:
    features = torch.cat([SQUARE, torch.full((4, 1), 0.1)], dim=1)
    found = attribute(features, [features])
    assert found.num_dead == 1
    assert found.correlation.averaged == found.covariance.averaged == pytest.approx(2.0)


@pytest.mark.parametrize("constant", [0.0, 0.1, 0.7, 1e6])
def test_constant_features_have_no_rank_no_direction_and_no_likeness(constant: float) -> None:
    features = torch.full((360, 3), constant, dtype=torch.float64)  # of which the mean may be off by rounding
    found = attribute(features, [features, draw(360, 3)])
    assert found.num_dead == 3
    assert found.covariance.averaged == found.correlation.averaged == found.covariance.local[0] == 0.0
    assert found.alignment.cka_between == 0.0
    assert found.alignment.cka_with_averaged == found.alignment.overlap_with_averaged == (0.0, 0.0)


def test_a_constant_client_is_like_no_other_in_the_mean_over_pairs() -> None:
    z = draw(30, 4)
    assert attribute(z, [z, z, torch.ones(30, 4)]).alignment.cka_between == pytest.approx(1 / 3)


# Against numpy and scipy


@pytest.mark.parametrize(("n", "d", "num_clients"), [(80, 6, 3), (20, 6, 5), (12, 30, 2), (50, 5, 1)])
def test_every_rank_is_that_of_numpy(n: int, d: int, num_clients: int) -> None:
    averaged, local = draw(n, d), [draw(n, d, seed=seed) for seed in range(1, num_clients + 1)]
    found = attribute(averaged, local)
    whole = averaged.double().numpy()
    parts = [features.double().numpy() for features in local]
    for ranks, scaled in ((found.covariance, np.asarray), (found.correlation, numpy_z_scores)):
        assert ranks.averaged == pytest.approx(numpy_rank(scaled(whole)), rel=1e-9)
        assert ranks.local == pytest.approx([numpy_rank(scaled(part)) for part in parts], rel=1e-9)
        side_by_side = np.concatenate([scaled(part) for part in parts], axis=1)
        assert ranks.concatenated == pytest.approx(numpy_rank(side_by_side), rel=1e-9)
        assert ranks.mean == pytest.approx(numpy_rank(scaled(np.mean(parts, axis=0))), rel=1e-9)


@pytest.mark.parametrize(("n", "d", "e"), [(40, 5, 5), (40, 5, 9), (8, 20, 20)])
def test_cka_is_that_of_the_independence_criterion(n: int, d: int, e: int) -> None:
    a, b = draw(n, d), draw(n, e, seed=1)
    assert linear_cka(a, b) == pytest.approx(numpy_cka(a.double().numpy(), b.double().numpy()), rel=1e-9)


@pytest.mark.parametrize(("n", "d", "num_clients"), [(60, 4, 3), (10, 30, 4)])
def test_cka_between_clients_is_the_mean_over_pairs(n: int, d: int, num_clients: int) -> None:
    local = [draw(n, d, seed=seed) for seed in range(num_clients)]
    pairs = [linear_cka(a, b) for number, a in enumerate(local) for b in local[:number]]
    found = attribute(local[0], local)
    assert found.alignment.cka_between == pytest.approx(np.mean(pairs), rel=1e-9)
    assert found.alignment.cka_with_averaged == pytest.approx([linear_cka(z, local[0]) for z in local], rel=1e-9)


@pytest.mark.parametrize("k", [1, 3, 6])
def test_overlap_is_the_mean_squared_cosine_of_the_principal_angles(k: int) -> None:
    a, b = draw(60, 6), draw(60, 6, seed=1)
    u, v = (numpy_directions(z.double().numpy(), k) for z in (a, b))
    expected = np.mean(np.cos(subspace_angles(u, v)) ** 2)
    assert subspace_overlap(a, b, directions=k) == pytest.approx(expected, rel=1e-8)


def test_directions_are_those_of_ninety_percent_of_the_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(500, 4, generator=generator) * torch.tensor([3.0, 1.2, 0.5, 0.1])  # shares .84, .13, .02, .001
    found = attribute(z, [z])
    assert found.alignment.directions == 2
    assert found.alignment.overlap_with_averaged == pytest.approx((1.0,))


def test_a_local_model_with_fewer_directions_holds_at_most_its_share() -> None:
    averaged = draw(300, 8, decay=0.0)
    local = torch.zeros(300, 8)
    local[:, 0] = averaged[:, 0]
    found = attribute(averaged, [local])
    assert found.alignment.overlap_with_averaged[0] <= 1 / found.alignment.directions + 1e-9


def test_random_subspaces_overlap_in_the_share_of_their_size() -> None:
    pairs = [(draw(100, 30, seed=s, decay=0.0), draw(100, 30, seed=s + 50, decay=0.0)) for s in range(20)]
    assert np.mean([subspace_overlap(a, b, directions=6) for a, b in pairs]) == pytest.approx(6 / 30, abs=0.03)


# Invariances


def rotation(d: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d, d, generator=generator).double()).Q


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 100.0), st.floats(-50.0, 50.0))
def test_rotation_scale_and_shift_change_neither_cka_nor_a_rank(seed: int, scale: float, shift: float) -> None:
    z, other = draw(40, 5).double(), draw(40, 5, seed=1).double()
    turned = scale * z @ rotation(5, seed) + shift
    assert linear_cka(z, turned) == pytest.approx(1.0, abs=1e-9)
    assert linear_cka(turned, other) == pytest.approx(linear_cka(z, other), abs=1e-9)
    assert feature_rank(turned) == pytest.approx(feature_rank(z), rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(5)), st.permutations(range(30)))
def test_the_order_of_dimensions_and_of_examples_changes_nothing(columns: list[int], rows: list[int]) -> None:
    averaged, local = draw(30, 5), [draw(30, 5, seed=1), draw(30, 5, seed=2)]
    before, after = (
        attribute(averaged, local),
        attribute(averaged[rows][:, columns], [z[rows][:, columns] for z in local]),
    )
    for a, b in ((before.covariance, after.covariance), (before.correlation, after.correlation)):
        assert (*a.local, a.concatenated, a.mean, a.averaged) == pytest.approx(
            (*b.local, b.concatenated, b.mean, b.averaged)
        )
    assert before.alignment.cka_between == pytest.approx(after.alignment.cka_between)
    assert before.alignment.overlap_with_averaged == pytest.approx(after.alignment.overlap_with_averaged)


def test_the_order_of_clients_orders_the_lists_and_changes_nothing_else() -> None:
    averaged, a, b = draw(30, 5), draw(30, 5, seed=1), draw(30, 5, seed=2)
    one, two = attribute(averaged, [a, b]), attribute(averaged, [b, a])
    assert one.covariance.local == pytest.approx(two.covariance.local[::-1])
    assert one.covariance.concatenated == pytest.approx(two.covariance.concatenated)
    assert one.alignment.cka_with_averaged == pytest.approx(two.alignment.cka_with_averaged[::-1])


def test_equal_clients_are_one_client() -> None:
    z = draw(50, 6)
    found = attribute(z, [z, z, z])
    ranks = found.covariance
    assert (*ranks.local, ranks.concatenated, ranks.mean) == pytest.approx([ranks.averaged] * 5)
    assert found.alignment.cka_between == pytest.approx(1.0)
    assert replace(found.alignment, directions=0).overlap_with_averaged == pytest.approx((1.0, 1.0, 1.0))


def test_one_client_is_like_itself() -> None:
    found = attribute(draw(30, 4), [draw(30, 4, seed=1)])
    assert found.alignment.cka_between == 1.0
    assert len(found.covariance.local) == len(found.alignment.cka_with_averaged) == 1


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 12), st.integers(1, 9), st.integers(1, 3), st.integers(0, 1000))
def test_no_rank_leaves_its_range_and_no_likeness_its(n: int, d: int, num_clients: int, seed: int) -> None:
    found = attribute(draw(n, d, seed=seed), [draw(n, d, seed=seed + 1 + client) for client in range(num_clients)])
    most, slack = n - 1, 1 + 1e-9
    for ranks in (found.covariance, found.correlation):
        assert all(1 / slack <= rank <= min(d, most) * slack for rank in (*ranks.local, ranks.mean, ranks.averaged))
        assert 1 / slack <= ranks.concatenated <= min(num_clients * d, most) * slack
    alignment = found.alignment
    for value in (alignment.cka_between, *alignment.cka_with_averaged, *alignment.overlap_with_averaged):
        assert -1e-9 <= value <= slack


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_of_any_type_are_measured_in_float64(dtype: torch.dtype) -> None:
    z = draw(50, 4).to(dtype)
    found = attribute(z, [z])
    assert found.covariance.averaged == pytest.approx(numpy_rank(z.double().numpy()), rel=1e-9)


def test_measuring_leaves_the_features_alone() -> None:
    averaged, local = draw(20, 4), [draw(20, 4, seed=1), draw(20, 4, seed=2)]
    copies = [z.clone() for z in (averaged, *local)]
    attribute(averaged, local)
    assert all(torch.equal(a, b) for a, b in zip(copies, (averaged, *local), strict=True))


# Mistakes


@pytest.mark.parametrize(
    ("averaged", "local", "sentence"),
    [
        (SQUARE, [], "there is none"),
        (SQUARE, [SQUARE[:3]], r"on the same probe, got \(4, 2\) of the averaged model and \(3, 2\) of a local one"),
        (SQUARE, [torch.zeros(4, 3)], r"\(4, 3\) of a local one"),
        (torch.zeros(4, 2, 2), [torch.zeros(4, 2, 2)], r"must be \(n, d\)"),
        (torch.zeros(0, 2), [torch.zeros(0, 2)], r"got \(0, 2\)"),
        (torch.full((4, 2), nan), [SQUARE], "features must be finite, got NaN or infinity"),
        (SQUARE, [SQUARE, SQUARE * torch.inf], "a model that has diverged has no rank"),
    ],
)
def test_a_mistake_is_a_sentence(averaged: Tensor, local: list[Tensor], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        attribute(averaged, local)
