from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decollapse.secure.encoding import FixedPoint, Layout, OutOfRangeError
from decollapse.tree import Tree


def total(fixed: FixedPoint, trees: list[Tree]) -> Tree:
    words = np.sum([fixed.encode(tree) for tree in trees], axis=0, dtype=np.uint64)
    return fixed.decode(words, Layout.of(trees[0]))


def test_one_word_by_hand() -> None:
    # 62 - 1 - 2 = 59 bits after the point.
    words = FixedPoint(num_clients=4, bound=2.0).encode({"x": torch.tensor([1.0, -1.0, 0.0])})
    assert words.tolist() == [2**59, 2**64 - 2**59, 0]


def test_two_words_by_hand() -> None:
    # 62 - 50 - 2 = 10 bits in the first word, 60 more in the second.
    fixed = FixedPoint(num_clients=4, wide_bound=2.0**50)
    words = fixed.encode({"x": torch.tensor([3.0, 2.0**-20], dtype=torch.float64)})
    assert words.tolist() == [3 * 2**10, 0, 0, 2**50]


@pytest.mark.parametrize("num_clients", [3, 50, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sum_is_exact_to_the_stated_error(num_clients: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    fixed = FixedPoint(num_clients)
    trees = [{"x": torch.randn(20, generator=generator, dtype=dtype) * 1000} for _ in range(num_clients)]
    found = total(fixed, trees)["x"]
    for position in range(20):
        exact = sum(Fraction(tree["x"][position].item()) for tree in trees)
        allowed = Fraction(fixed.error(dtype)) + abs(exact) / 2**51  # the last is the sum's own float64
        assert abs(Fraction(found[position].item()) - exact) <= allowed


def test_the_errors_are_those_that_the_module_states() -> None:
    fixed = FixedPoint(50)
    assert fixed.error(torch.float32) == pytest.approx(9.3e-8, rel=0.01)
    assert fixed.error(torch.float64) == pytest.approx(5.3e-21, rel=0.01)


@pytest.mark.parametrize("num_clients", [1, 2, 3, 64, 65])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_everybody_may_send_the_bound_at_once(num_clients: int, dtype: torch.dtype, sign: float) -> None:
    fixed = FixedPoint(num_clients)
    bound = fixed.bound if dtype == torch.float32 else fixed.wide_bound
    trees = [{"x": torch.tensor([sign * bound], dtype=dtype)}] * num_clients
    assert total(fixed, trees)["x"].item() == sign * bound * num_clients


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=1, max_size=9))
def test_float64_comes_back_as_it_was(values: list[float]) -> None:
    tree = {"x": torch.tensor(values, dtype=torch.float64)}
    torch.testing.assert_close(total(FixedPoint(7), [tree])["x"], tree["x"], rtol=2.0**-52, atol=1e-20)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "'b' has values that are NaN or infinite"),
        (float("-inf"), "NaN or infinite"),
        (3e8, "values beyond 2.68435e[+]08, which"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_name(value: float, said: str) -> None:
    with pytest.raises(OutOfRangeError, match=said):
        FixedPoint(3).encode({"a": torch.zeros(2), "b": torch.tensor([0.0, value])})


def test_a_bound_that_leaves_no_digits_is_refused_with_the_number_of_clients() -> None:
    assert FixedPoint(2**14, wide_bound=2.0**40).num_clients == 2**14
    with pytest.raises(ValueError, match="of 20000 clients leave 7 of 62 bits"):
        FixedPoint(20_000)


def test_words_of_another_tree_are_refused() -> None:
    with pytest.raises(ValueError, match="has 2 words, got 1"):
        FixedPoint(2).decode(np.zeros(1, np.uint64), Layout.of({"x": torch.zeros(2)}))


def test_shapes_and_empty_leaves_come_back() -> None:
    tree = {"a": torch.ones(2, 3), "b": torch.zeros(0), "c": torch.tensor(2.0, dtype=torch.float64)}
    found = total(FixedPoint(2), [tree, tree])
    assert {name: tuple(leaf.shape) for name, leaf in found.items()} == {"a": (2, 3), "b": (0,), "c": ()}
    assert found["c"].item() == 4.0
