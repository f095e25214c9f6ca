"""Agreement of updates and the variance that averaging BatchNorm loses, by hand and by naive sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decollapse.diagnosis.drift import drift, lost_variance


def vectors(num_clients: int, size: int, *, seed: int = 0) -> list[torch.Tensor]:
    return list(torch.randn(num_clients, size, generator=torch.Generator().manual_seed(seed)))


def test_orthogonal_updates_agree_in_one_part_of_k() -> None:
    found = drift(list(torch.eye(4) * 3), [1, 1, 1, 1])
    assert found.norms == (3.0, 3.0, 3.0, 3.0)
    assert found.cosines == pytest.approx((0.5,) * 4)
    assert found.agreement == pytest.approx(0.25)


def test_equal_updates_agree_fully_and_opposite_ones_not_at_all() -> None:
    one = torch.tensor([1.0, 2.0])
    assert drift([one, one], [1, 3]).agreement == pytest.approx(1.0)
    opposed = drift([one, -one], [1, 1])
    assert opposed.agreement == 0.0
    assert opposed.cosines == (0.0, 0.0)


def test_weights_need_not_sum_to_one_and_change_the_mean() -> None:
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    found = drift([a, b], [3, 1])
    assert found == drift([a, b], [0.75, 0.25])
    # The mean is (0.75, 0.25), of squared length 0.625.
    assert found.agreement == pytest.approx(0.625)
    assert found.cosines == pytest.approx((0.75 / 0.625**0.5, 0.25 / 0.625**0.5))


def test_a_client_that_did_not_move_has_no_direction() -> None:
    found = drift([torch.zeros(3), torch.tensor([2.0, 0.0, 0.0])], [1, 1])
    assert found.norms == (0.0, 2.0)
    assert found.cosines == (0.0, 1.0)
    assert drift([torch.zeros(3), torch.zeros(3)], [1, 1]).agreement == 1.0


def test_one_client_agrees_with_itself() -> None:
    found = drift([torch.tensor([3.0, 4.0])], [7])
    assert found.norms == (5.0,)
    assert (*found.cosines, found.agreement) == pytest.approx((1.0, 1.0))


def test_it_is_that_of_naive_sums() -> None:
    updates, weights = vectors(5, 40), [10, 200, 3, 40, 55]
    rows = np.stack([update.double().numpy() for update in updates])
    p = np.array(weights) / sum(weights)
    mean = sum(share * row for share, row in zip(p, rows, strict=True))
    found = drift(updates, weights)
    assert found.norms == pytest.approx([np.linalg.norm(row) for row in rows])
    assert found.cosines == pytest.approx([row @ mean / np.linalg.norm(row) / np.linalg.norm(mean) for row in rows])
    assert found.agreement == pytest.approx(mean @ mean / sum(s * row @ row for s, row in zip(p, rows, strict=True)))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 1000), st.floats(0.01, 100.0))
def test_agreement_is_from_0_to_1_and_has_no_unit(num_clients: int, size: int, seed: int, scale: float) -> None:
    updates = vectors(num_clients, size, seed=seed)
    weights = list(range(1, num_clients + 1))
    found, scaled = drift(updates, weights), drift([scale * update for update in updates], weights)
    assert -1e-12 <= found.agreement <= 1 + 1e-12
    assert scaled.agreement == pytest.approx(found.agreement, rel=1e-4)
    assert all(abs(cosine) <= 1 + 1e-12 for cosine in found.cosines)


# BatchNorm


def buffers(mean: list[float], variance: list[float], name: str = "norm.") -> dict[str, torch.Tensor]:
    return {
        f"{name}running_mean": torch.tensor(mean),
        f"{name}running_var": torch.tensor(variance),
        f"{name}num_batches_tracked": torch.tensor(7),
    }


def test_equal_means_lose_nothing_whatever_the_variances() -> None:
    assert lost_variance([buffers([3.0], [1.0]), buffers([3.0], [9.0])], [1, 1]) == 0.0


def test_what_is_lost_is_between_the_clients() -> None:
    # Channel 1: means 0 and 4 of weights 3 and 1, between 3, within 1: 3/4 is lost. Channel 2: nothing.
    clients = [buffers([0.0, 5.0], [1.0, 2.0]), buffers([4.0, 5.0], [1.0, 2.0])]
    assert lost_variance(clients, [3, 1]) == pytest.approx(0.375)


def test_it_is_the_share_of_the_pooled_variance() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(shift, 1 + shift, size=(50 + 30 * number, 3)) for number, shift in enumerate((0.0, 1.0, 2.5))]
    clients = [buffers(part.mean(0).tolist(), part.var(0).tolist()) for part in parts]
    weights = [len(part) for part in parts]
    within = sum(len(part) * part.var(0) for part in parts) / sum(weights)
    expected = 1 - within / np.concatenate(parts).var(0)
    assert lost_variance(clients, weights) == pytest.approx(expected.mean(), rel=1e-5)


def test_channels_count_alike_in_whichever_layer_they_are() -> None:
    a = buffers([0.0], [1.0], "a.") | buffers([0.0, 0.0, 0.0], [1.0, 1.0, 1.0], "b.")
    b = buffers([2.0], [1.0], "a.") | buffers([0.0, 0.0, 0.0], [1.0, 1.0, 1.0], "b.")
    assert lost_variance([a, b], [1, 1]) == pytest.approx(0.5 / 4)


def test_a_channel_without_any_variance_loses_none() -> None:
    assert lost_variance([buffers([1.0], [0.0]), buffers([1.0], [0.0])], [1, 1]) == 0.0


@pytest.mark.parametrize("tree", [{}, {"table": torch.ones(3)}, {"ema.running_mean": torch.ones(3)}])
def test_without_batchnorm_there_is_no_number(tree: dict[str, torch.Tensor]) -> None:
    assert lost_variance([tree, tree], [1, 1]) is None
