"""The theory: G, the rates of the theorem against the flow, what grows in one client, what averaging keeps."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from decollapse import cli
from decollapse.theory import (
    DeepLinear,
    Examples,
    Setting,
    average,
    averaging_round,
    balance,
    balanced,
    class_mean_g,
    exact_g,
    gaussian,
    grow,
    integrate,
    measured_rates,
    predicted_rates,
    rate_errors,
    velocity,
)
from decollapse.theory.plots import averaging_picture, growth_picture, push_picture, rank_picture
from decollapse.theory.study import class_labels
from decollapse.theory.tables import answer

PAGE = Path(__file__).resolve().parents[1] / "docs" / "theory.md"
SMALL = Setting(width=8, num_inputs=8, num_classes=4, num_examples=40, horizon=10)


def draw(classes: list[int], *, num_classes: int = 10, num_inputs: int = 12, n: int = 200, seed: int = 0) -> Examples:
    """Examples of these classes in turn, around class means that are well apart."""
    rng = np.random.default_rng(seed)
    y = np.resize(classes, n)
    x = 2 * rng.normal(size=(num_classes, num_inputs))[y] + rng.normal(size=(n, num_inputs))
    return Examples(torch.from_numpy(x), torch.from_numpy(y), num_classes)


def matrices(*weights: list[list[float]]) -> DeepLinear:
    return DeepLinear(tuple(torch.tensor(weight, dtype=torch.float64) for weight in weights))


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


# Numbers one can do by hand.


def test_one_example_and_one_feature_by_hand() -> None:
    """Sigma = a = 1, W_2 = (b, -b) = (2, -2), x = 1, y = 0: p_0 = 1 / (1 + e^-4), and d sigma/dt = 2 b (1 - p_0)."""
    network = matrices([[1.0]], [[2.0], [-2.0]])
    examples = Examples(torch.ones(1, 1, dtype=torch.float64), torch.tensor([0]), num_classes=2)
    missing = 1 - 1 / (1 + math.exp(-4))
    assert exact_g(network, examples).flatten().tolist() == pytest.approx([missing, -missing])
    first, second = velocity(network, examples)
    assert first.item() == pytest.approx(4 * missing)
    assert second.flatten().tolist() == pytest.approx([missing, -missing])
    assert balance(network).M == 7.0  # 2^2 + 2^2 - 1
    assert predicted_rates(network, exact_g(network, examples), num_examples=1).tolist() == pytest.approx([4 * missing])
    assert measured_rates(network, examples).tolist() == pytest.approx([4 * missing])


def test_averaging_two_clients_that_learnt_different_directions_by_hand() -> None:
    """Each grew one direction by 2 in each of 3 layers: their mean features keep 2^3 / 2, their mean weights 1^3."""
    one, other = ([[2.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]])
    clients = [matrices(one, one, one, [[1.0, 0.0]]), matrices(other, other, other, [[0.0, 1.0]])]
    features = (clients[0].encoder + clients[1].encoder) / 2
    assert torch.linalg.svdvals(features).tolist() == [4.0, 4.0]
    assert average(clients, [0.5, 0.5]).singular_values.tolist() == [1.0, 1.0]


def test_the_average_weighs_clients_by_their_weights() -> None:
    mean = average([matrices([[1.0]], [[0.0]]), matrices([[5.0]], [[8.0]])], [0.75, 0.25])
    assert [weight.item() for weight in mean.weights] == [2.0, 2.0]


# G and the gradient, against independent computations.


@pytest.mark.parametrize("num_hidden", [1, 2, 4])
def test_the_velocity_is_minus_autograds_gradient_of_the_summed_cross_entropy(num_hidden: int) -> None:
    network = gaussian(num_hidden=num_hidden, width=5, num_inputs=12, gain=1.0)
    examples = draw([0, 1, 1, 7])
    leaves = [weight.clone().requires_grad_() for weight in network.weights]
    hidden = examples.x
    for leaf in leaves:
        hidden = torch.nn.functional.linear(hidden, leaf)
    gradients = torch.autograd.grad(torch.nn.functional.cross_entropy(hidden, examples.y, reduction="sum"), leaves)
    for move, gradient in zip(velocity(network, examples), gradients, strict=True):
        torch.testing.assert_close(move, -gradient, rtol=1e-12, atol=1e-12)


def naive_g(network: DeepLinear, examples: Examples) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Both forms by the book, an example and a class at a time."""
    map_, x, y = np.eye(len(examples.x[0])), examples.x.numpy(), examples.y.numpy()
    for weight in network.weights:
        map_ = weight.numpy() @ map_
    logits = x @ map_.T
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    e = np.eye(examples.num_classes)
    exact = sum(np.outer(e[label] - p[n], x[n]) for n, label in enumerate(y)) / len(y)
    means = sum(
        np.mean(y == c) * np.outer(e[c] - p[y == c].mean(axis=0), x[y == c].mean(axis=0)) for c in sorted(set(y))
    )
    return np.asarray(exact), np.asarray(means)


def test_both_forms_of_g_agree_with_a_plain_sum_over_examples_and_classes() -> None:
    network, examples = gaussian(width=6, num_inputs=12, gain=1.0), draw([0, 0, 0, 3, 9])
    exact, means = naive_g(network, examples)
    np.testing.assert_allclose(exact_g(network, examples).numpy(), exact, atol=1e-13)
    np.testing.assert_allclose(class_mean_g(network, examples).numpy(), means, atol=1e-13)
    assert np.abs(exact - means).max() > 1e-3


def test_the_two_forms_of_g_are_equal_where_outputs_do_not_vary() -> None:
    network, examples = gaussian(num_inputs=12, gain=1e-9), draw([0, 0, 4])
    assert distance(class_mean_g(network, examples), exact_g(network, examples)) < 1e-8


@pytest.mark.parametrize("present", range(1, 11))
def test_the_rank_of_g_is_the_smaller_of_classes_present_and_classes_less_one(present: int) -> None:
    network = balanced(width=6, num_inputs=12, scale=0.02)
    values = torch.linalg.svdvals(class_mean_g(network, draw(list(range(present)))))
    assert int((values > 1e-9 * values[0]).sum()) == min(present, 9)


# The theorem.


@pytest.mark.parametrize("num_hidden", [1, 2, 3, 5])
@pytest.mark.parametrize(("width", "M"), [(6, 0.0), (6, 0.5), (10, 3.0), (32, 0.0)])
def test_the_rates_with_the_exact_g_are_the_flows_own(num_hidden: int, width: int, M: float) -> None:
    network = balanced(num_hidden=num_hidden, width=width, num_inputs=12, M=M, scale=0.3, seed=1)
    examples = draw(list(range(10)))
    rates = predicted_rates(network, exact_g(network, examples), num_examples=len(examples))
    assert distance(rates, measured_rates(network, examples)) < 1e-8


@pytest.mark.parametrize("M", [0.0, 0.5])
@pytest.mark.parametrize("num_hidden", [1, 2, 3])
def test_class_means_cost_less_than_a_hundredth_at_a_small_start_and_everything_later(
    num_hidden: int, M: float
) -> None:
    start, later = rate_errors(num_hidden=num_hidden, M=M, times=[0.0, 16.0])
    assert 1e-5 < start.class_means < 0.01
    assert later.class_means > 0.5
    assert max(start.exact, later.exact) < 1e-8


@pytest.mark.parametrize(("num_hidden", "M", "least"), [(2, 0.0, 0.8), (3, 0.0, 0.9), (2, 0.5, 0.01), (3, 0.5, 0.05)])
def test_the_root_holds_sigma_to_the_two_over_l(num_hidden: int, M: float, least: float) -> None:
    (start,) = rate_errors(num_hidden=num_hidden, M=M)
    assert start.squared > least


def test_finite_differences_agree_with_a_flow_that_runs_both_ways() -> None:
    """Runge-Kutta in numpy from -h to h, with a gradient by numpy; second order in h."""
    network, examples = balanced(num_hidden=2, width=4, num_inputs=12, scale=0.5), draw([0, 1, 2, 3])
    x, e = examples.x.numpy(), np.eye(10)[examples.y.numpy()]

    def slope(w: list[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        a, b, c = w
        logits = x @ (c @ b @ a).T
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        g = (e - p).T @ x
        return [b.T @ c.T @ g, c.T @ g @ a.T, g @ a.T @ b.T]

    def after(h: float) -> np.ndarray[Any, Any]:
        w = [weight.numpy() for weight in network.weights]
        k1 = slope(w)
        k2 = slope([a + h / 2 * k for a, k in zip(w, k1, strict=True)])
        k3 = slope([a + h / 2 * k for a, k in zip(w, k2, strict=True)])
        k4 = slope([a + h * k for a, k in zip(w, k3, strict=True)])
        w = [a + h / 6 * (p + 2 * q + 2 * r + s) for a, p, q, r, s in zip(w, k1, k2, k3, k4, strict=True)]
        return np.asarray(np.linalg.svd(w[1] @ w[0], compute_uv=False))

    h = 1e-6
    by_hand = torch.from_numpy((after(h) - after(-h)) / (2 * h))
    assert distance(measured_rates(network, examples), by_hand) < 1e-7


def test_singular_values_of_zero_stay_zero() -> None:
    network, examples = balanced(width=32, num_inputs=12), draw(list(range(10)))
    rates = predicted_rates(network, exact_g(network, examples), num_examples=200)
    assert rates[:10].abs().min() > 1e-6
    assert rates[10:].abs().max() < 1e-12
    (later,) = integrate(network, examples, [0.1])
    assert later.singular_values[0] > 1
    assert later.singular_values[10:].max() < 1e-12


def test_the_theorem_is_refused_without_its_assumptions() -> None:
    network, examples = gaussian(num_inputs=12), draw([0, 1])
    with pytest.raises(ValueError, match="relative error of .*; start from `balanced`"):
        predicted_rates(network, exact_g(network, examples), num_examples=200)


# Where a network starts.


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 12), st.integers(1, 12), st.integers(2, 8), st.booleans(), st.integers(0, 99))
def test_a_balanced_start_satisfies_both_assumptions(
    num_hidden: int, width: int, num_inputs: int, num_classes: int, spread: bool, seed: int
) -> None:
    M = 0.25 if spread and width <= num_classes else 0.0
    network = balanced(
        num_hidden=num_hidden,
        width=width,
        num_inputs=num_inputs,
        num_classes=num_classes,
        scale=0.3,
        M=M,
        seed=seed,
    )
    first, *_, last = network.weights
    for below, above in zip(network.weights[:-1], network.weights[1:-1], strict=False):
        torch.testing.assert_close(above.T @ above, below @ below.T, atol=1e-13, rtol=0)
    top = network.weights[-2]
    torch.testing.assert_close(last.T @ last - top @ top.T, M * torch.eye(width, dtype=last.dtype), atol=1e-13, rtol=0)
    assert (first.shape[1], last.shape[0]) == (num_inputs, num_classes)
    assert abs(balance(network).M - M) < 1e-13
    assert balance(network).error < 1e-13
    rank = min(width, num_inputs) if M else min(width, num_inputs, num_classes)
    expected = np.linspace(0.3, 0.15, rank).tolist() + [0.0] * (min(width, num_inputs) - rank)
    assert network.singular_values.tolist() == pytest.approx(expected, abs=1e-12)


def test_a_gaussian_start_is_not_balanced_and_has_the_gain_asked_for() -> None:
    network = gaussian(width=64, num_inputs=64, gain=0.4)
    assert balance(network).error > 0.1
    assert float(network.weights[1].std()) == pytest.approx(0.4 / 8, rel=0.05)


def test_starts_depend_on_the_seed_alone() -> None:
    for make in (balanced, gaussian):
        assert torch.equal(make(seed=3).encoder, make(seed=3).encoder)
        assert not torch.equal(make(seed=3).encoder, make(seed=4).encoder)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(width=11, M=0.1), "M = 0.1 is impossible with 11 features and 10 classes"),
        (dict(width=5, M=-0.1), "M must be at least 0, got -0.1"),
        (dict(num_hidden=0), "got 0 hidden layers, 32 features, 32 inputs and 10 classes"),
        (dict(num_classes=1), "two classes or more"),
        (dict(scale=0.0), "larger than 0, got 0.0"),
        (dict(scale=math.nan), "larger than 0, got nan"),
    ],
)
def test_impossible_starts_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        balanced(**options)


def test_matrices_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("got matrices of shapes [(2, 1), (1, 1)]")):
        matrices([[1.0], [1.0]], [[1.0]])
    with pytest.raises(ValueError, match="a hidden layer or more and a classifier"):
        matrices([[1.0]])


@pytest.mark.parametrize(
    ("x", "y", "sentence"),
    [
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), "at least one row"),
        (torch.zeros(2, 2), torch.tensor([0]), "got shapes (2, 2) and (1,)"),
        (torch.zeros(2), torch.tensor([0, 1]), "got shapes (2,) and (2,)"),
        (torch.zeros(2, 2), torch.tensor([0, 3]), "labels must be 0 to 2, got [0, 3]"),
        (torch.zeros(2, 2), torch.tensor([-1, 0]), "labels must be 0 to 2, got [-1, 0]"),
    ],
)
def test_bad_examples_are_refused(x: Tensor, y: Tensor, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Examples(x, y, num_classes=3)


# The flow.


def runge_kutta(network: DeepLinear, examples: Examples, time: float, num_steps: int) -> DeepLinear:
    """The classical method at a fixed step."""
    h = time / num_steps

    def moved(weights: tuple[Tensor, ...], by: float, moves: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(w + by * m for w, m in zip(weights, moves, strict=True))

    for _ in range(num_steps):
        w = network.weights
        k1 = velocity(network, examples)
        k2 = velocity(DeepLinear(moved(w, h / 2, k1)), examples)
        k3 = velocity(DeepLinear(moved(w, h / 2, k2)), examples)
        k4 = velocity(DeepLinear(moved(w, h, k3)), examples)
        for by, k in ((h / 6, k1), (h / 3, k2), (h / 3, k3), (h / 6, k4)):
            w = moved(w, by, k)
        network = DeepLinear(w)
    return network


def test_the_flow_agrees_with_small_fixed_steps_and_more_so_at_a_smaller_tolerance() -> None:
    start, examples = balanced(width=6, num_inputs=12), draw([0, 1, 2])
    reference = runge_kutta(start, examples, 0.05, 1000).encoder
    errors = [
        distance(integrate(start, examples, [0.05], tolerance=t)[0].encoder, reference) for t in (1e-4, 1e-6, 1e-9)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[1] < 1e-5
    assert errors[2] < 1e-8


def test_output_times_do_not_change_where_the_flow_goes() -> None:
    start, examples = balanced(width=6, num_inputs=12), draw([0, 1, 2])
    (alone,) = integrate(start, examples, [0.05], tolerance=1e-8)
    *_, watched = integrate(start, examples, np.linspace(0, 0.05, 30).tolist(), tolerance=1e-8)
    assert distance(watched.encoder, alone.encoder) < 1e-7


def test_time_of_the_summed_loss_counts_examples() -> None:
    """Every example twice, half the time: the same weights."""
    start, once = balanced(width=6, num_inputs=12), draw([0, 1, 2])
    twice = Examples(once.x.repeat(2, 1), once.y.repeat(2), 10)
    (a,), (b,) = (integrate(start, x, [t], tolerance=1e-9) for x, t in ((once, 0.05), (twice, 0.025)))
    assert distance(a.encoder, b.encoder) < 1e-7


def test_the_flow_keeps_the_assumptions() -> None:
    start = balanced(width=6, num_inputs=12, M=0.5)
    for network in integrate(start, draw([0, 1, 2]), [0.02, 0.05], tolerance=1e-9):
        assert balance(network).error < 1e-8
        assert abs(balance(network).M - 0.5) < 1e-8


def test_time_zero_is_the_start() -> None:
    start = balanced(width=6, num_inputs=12)
    first, second = integrate(start, draw([0, 1]), [0.0, 0.0])
    assert torch.equal(first.encoder, start.encoder)
    assert torch.equal(second.encoder, start.encoder)


@pytest.mark.parametrize("times", [[0.1, 0.05], [-0.1]])
def test_times_that_go_back_are_refused(times: list[float]) -> None:
    with pytest.raises(ValueError, match="times must ascend from 0"):
        integrate(balanced(num_inputs=12), draw([0, 1]), times)


def test_inputs_that_are_not_finite_are_refused() -> None:
    examples = draw([0, 1])
    broken = replace(examples, x=examples.x.index_fill(0, torch.tensor([3]), math.nan))
    with pytest.raises(ValueError, match="check that inputs and weights are finite"):
        integrate(balanced(num_inputs=12), broken, [0.1])


# One client.


def test_the_more_unequal_the_classes_the_fewer_singular_values_grow() -> None:
    results = {
        alpha: [grow(Setting(), alpha, seed=seed, num_times=5) for seed in (0, 1)] for alpha in (0.01, 0.25, None)
    }
    grown = {alpha: sum(result.grown[-1] for result in found) / 2 for alpha, found in results.items()}
    assert grown[0.01] < grown[0.25] < grown[None]
    assert all(
        result.grown[-1] <= result.rank_g <= min(result.classes, 9) for found in results.values() for result in found
    )


def test_a_client_of_one_class_grows_one_singular_value() -> None:
    result = grow(Setting(), 0.01, seed=1, num_times=5)
    assert (result.classes, result.rank_g, result.strong_g) == (1, 1, 1)
    assert result.grown == [0, 1, 1, 1, 1]


def test_the_entropy_rank_falls_while_singular_values_grow() -> None:
    result = grow(Setting(horizon=20), None, seed=0, num_times=5)
    _, early, _, _, late = result.grown
    assert late >= early + 3
    assert result.entropy_rank[4] < result.entropy_rank[1] / 2


def test_a_client_is_a_function_of_alpha_seed_and_client() -> None:
    one, same, other = (Setting().client(0.1, seed=3, client=client) for client in (2, 2, 4))
    assert torch.equal(one.x, same.x)
    assert torch.equal(one.y, same.y)
    assert not torch.equal(one.y, other.y)


def test_clients_of_one_seed_share_their_class_means() -> None:
    one, other = (Setting(num_examples=20_000).client(None, seed=3, client=client) for client in (0, 1))
    means = [examples.one_hot @ examples.x / examples.counts[:, None] for examples in (one, other)]
    assert float((means[0] - means[1]).abs().max()) < 0.15


def test_equal_class_priors_are_exactly_equal_and_a_tiny_alpha_leaves_one_class() -> None:
    rng = np.random.default_rng(0)
    assert np.bincount(class_labels(None, 500, 10, rng)).tolist() == [50] * 10
    assert len(set(class_labels(1e-4, 500, 10, rng).tolist())) == 1
    with pytest.raises(ValueError, match="alpha must be above 0, got 0"):
        class_labels(0.0, 500, 10, rng)


@pytest.mark.parametrize("options", [dict(num_examples=0), dict(separation=0.0), dict(horizon=-1.0)])
def test_settings_that_are_not_positive_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        Setting(**options)


def test_an_unknown_start_is_refused() -> None:
    with pytest.raises(ValueError, match="start must be one of balanced, gaussian, got 'orthogonal'"):
        Setting(start="orthogonal")  # type: ignore[arg-type]


# Averaging.


def test_averaging_keeps_more_than_a_client_and_less_than_the_clients_features() -> None:
    result = averaging_round(Setting(num_examples=100), 0.01, seed=0)
    client, averaged, features = (result.grown(s) for s in (result.clients, result.averaged, result.mean_features))
    assert client < averaged < features
    assert result.averaged[0] < result.mean_features[0] < result.clients[:, 0].mean()


def test_with_one_hidden_layer_averaged_weights_give_averaged_features() -> None:
    result = averaging_round(replace(SMALL, num_hidden=1), 0.1, seed=0, num_clients=3, largest_to_smallest=4)
    torch.testing.assert_close(result.averaged, result.mean_features, rtol=1e-12, atol=1e-12)
    deep = averaging_round(replace(SMALL, num_hidden=2), 0.1, seed=0, num_clients=3, largest_to_smallest=4)
    assert distance(deep.averaged, deep.mean_features) > 0.01


def test_the_average_of_one_client_is_that_client() -> None:
    result = averaging_round(SMALL, 0.5, seed=0, num_clients=1)
    for spectrum in (result.averaged, result.mean_features, result.pooled):
        torch.testing.assert_close(spectrum, result.clients[0], rtol=1e-10, atol=1e-12)


def test_sizes_have_the_ratio_and_the_mean_asked_for() -> None:
    sizes = averaging_round(replace(SMALL, horizon=0.1), None, seed=0, num_clients=4, largest_to_smallest=8.0).sizes
    assert sizes == (11, 21, 43, 85)


@pytest.mark.parametrize(("num_clients", "ratio"), [(0, 1.0), (2, 0.0)])
def test_a_round_without_clients_or_sizes_is_refused(num_clients: int, ratio: float) -> None:
    with pytest.raises(ValueError, match="at least one client and a ratio of sizes above 0"):
        averaging_round(SMALL, None, seed=0, num_clients=num_clients, largest_to_smallest=ratio)


# Pictures, the command and the page.

SVG = "{http://www.w3.org/2000/svg}"


def test_the_pictures_of_one_client_show_every_alpha() -> None:
    results = [grow(SMALL, alpha, seed=seed, num_times=3) for alpha in (0.01, 0.5, None) for seed in (0, 1)]
    for draw in (rank_picture, push_picture):
        figure = draw(results)
        assert [len(axis.lines) for axis in figure.axes] == [3, 3]
        assert [words.get_text() for words in figure.legends[0].get_texts()] == ["alpha = 0.01", "alpha = 0.5", "IID"]
    means = [np.mean([result.grown for result in results[at : at + 2]], axis=0) for at in (0, 2, 4)]
    drawn = [line.get_ydata() for line in rank_picture(results).axes[0].lines]
    np.testing.assert_allclose(drawn, means)
    figure = growth_picture(results)
    curves = [line for axis in figure.axes for line in axis.lines]
    assert len(curves) == 3 * (1 + 4)  # three panels: the threshold, and four singular values
    grown = sum(curve.get_color() == "#d55e00" for curve in curves)
    assert grown == sum(result.grown[-1] for result in results[::2])


def test_the_push_ends_where_g_has_no_more_singular_values() -> None:
    (one,) = [grow(SMALL, 0.01, seed=0, num_times=2)]
    drawn = np.asarray(push_picture([one]).axes[0].lines[0].get_ydata())
    assert int(np.isfinite(drawn).sum()) == int((one.push >= 1e-3 * one.push[0]).sum()) < len(drawn)


def test_the_picture_of_averaging_shows_each_client_and_three_wholes() -> None:
    results = [
        averaging_round(SMALL, alpha, seed=0, num_clients=3, largest_to_smallest=ratio)
        for alpha in (0.01, None)
        for ratio in (1.0, 4.0)
    ]
    figure = averaging_picture(results)
    assert [len(axis.lines) for axis in figure.axes] == 2 * [1 + 3 + 3]  # unequal clients are left to the table


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decollapse.theory.tables.ALPHAS", (0.01, None))
    monkeypatch.setattr("decollapse.theory.tables.AVERAGED_ALPHAS", (None,))
    monkeypatch.setattr("decollapse.theory.tables.NUM_CLIENTS", 2)


@pytest.mark.usefixtures("quick")
def test_the_command_prints_a_table_or_json_and_writes_its_pictures(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    few = ["--seeds", "1", "--horizon", "2"]
    assert cli.run_command(["theory", *few, "--out", str(tmp_path / "new")]) == 0
    printed = capsys.readouterr()
    assert all(word in printed.out for word in ("alpha = 0.01", "IID", "rank of G", "grown", "entropy rank", "seconds"))
    written = sorted((tmp_path / "new").iterdir())
    names = [f"theory_{name}.{suffix}" for name in ("growth", "push", "rank") for suffix in ("png", "svg")]
    assert [path.name for path in written] == names
    assert set(printed.err.split()) == {str(path) for path in written}
    drawings = [path for path in written if path.suffix == ".svg"]
    assert all(ElementTree.parse(path).getroot().tag == f"{SVG}svg" for path in drawings)
    assert all("alpha = 0.01" in path.read_text() for path in drawings)  # text is text

    before = {path: path.read_bytes() for path in written}
    assert cli.run_command(["theory", *few, "--out", str(tmp_path / "new")]) == 0
    assert {path: path.read_bytes() for path in written} == before
    capsys.readouterr()

    assert cli.run_command(["theory", *few, "--json"]) == 0
    first, last = json.loads(capsys.readouterr().out)
    assert (first["prior"], first["classes"], first["rank_g"], first["seeds"]) == ("alpha = 0.01", 2, 2, 1)
    assert (last["prior"], last["classes"], last["rank_g"], last["strong_g"]) == ("IID", 10, 9, 9)

    assert cli.run_command(["theory", "averaging", *few, "--json"]) == 0
    equal, unequal = json.loads(capsys.readouterr().out)
    assert (equal["sizes"], unequal["sizes"]) == ("equal", "1 to 16")
    assert equal["largest_averaged"] > 0


@pytest.mark.usefixtures("quick")
def test_pictures_without_matplotlib_are_a_mistake_and_numbers_are_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    few = ["theory", "--seeds", "1", "--horizon", "2"]
    assert cli.run_command([*few, "--out", str(tmp_path)]) == 2
    assert "pip install 'decollapse[figures]'" in capsys.readouterr().err
    assert cli.run_command(few) == 0


def test_the_command_checks_the_rates(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["theory", "rates", "--seeds", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 18
    assert all(row["exact"] < 1e-8 for row in rows)
    assert all(row["class_means"] < 0.01 for row in rows if row["time"] == 0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--seeds", "0"], "the number of seeds must be at least 1, got 0"),
        (["rates", "--start", "gaussian"], "leave --layers, --start and --horizon out"),
        (["--horizon", "0"], "must be above 0"),
        (["--layers", "0"], "got 0 hidden layers"),
        (["grwth"], "growth"),
    ],
)
def test_a_mistake_is_one_sentence(capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str) -> None:
    assert cli.run_command(["theory", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert sentence in captured.err.strip().splitlines()[-1]


def test_the_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["theory", "--help"]) == 0
    assert "Example: decollapse theory" in capsys.readouterr().out.replace("\n", " ")


def page_rows(header: str) -> list[list[str]]:
    """The cells of the page's table whose header begins like this."""
    table = PAGE.read_text().partition(f"\n| {header}")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("header", "question"), [("class prior | classes", "growth"), ("class prior | clients", "averaging")]
)
def test_the_page_shows_what_the_command_prints(capsys: pytest.CaptureFixture[str], header: str, question: str) -> None:
    assert cli.run_command(["theory", question, "--json"]) == 0
    shown, rows = page_rows(header), json.loads(capsys.readouterr().out)
    for cells, row in zip(shown, rows, strict=True):
        for cell, value in zip(cells, row.values(), strict=False):
            assert cell == value if isinstance(value, str) else float(cell) == pytest.approx(value, rel=0.02, abs=0.006)


def test_unknown_seeds_are_refused_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        answer("averaging", Setting(), seeds=-1, out=None, as_json=False)
