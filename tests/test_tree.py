from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decollapse import tree
from decollapse.tree import RunningMean

A = {"w": torch.tensor([1.0, 2.0]), "b": torch.tensor(3.0)}
B = {"w": torch.tensor([10.0, 20.0]), "b": torch.tensor(30.0)}


def test_arithmetic_is_leaf_by_leaf() -> None:
    assert tree.add(A, B)["w"].tolist() == [11.0, 22.0]
    assert tree.sub(B, A)["b"].item() == 27.0
    assert tree.scale(A, 2.0)["w"].tolist() == [2.0, 4.0]
    assert tree.dot(A, B).item() == 1 * 10 + 2 * 20 + 3 * 30
    assert tree.squared_norm(A).item() == 14.0


def test_arguments_are_left_alone() -> None:
    mean = RunningMean()
    mean.update(1, A)
    mean.update(1, B)
    mean.result()
    assert A["w"].tolist() == [1.0, 2.0]
    assert B["w"].tolist() == [10.0, 20.0]


@given(st.lists(st.tuples(st.floats(0.1, 100), st.floats(-1e3, 1e3)), min_size=1, max_size=20))
def test_the_running_mean_is_the_weighted_mean(pairs: list[tuple[float, float]]) -> None:
    mean = RunningMean()
    for weight, value in pairs:
        mean.update(weight, {"w": torch.tensor(value, dtype=torch.float64)})
    expected = sum(weight * value for weight, value in pairs) / sum(weight for weight, _ in pairs)
    assert mean.result()["w"].item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_a_mean_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one tree"):
        RunningMean().result()
