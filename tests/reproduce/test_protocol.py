"""The paper's scale is the protocol of the reference release, setting by setting."""

from __future__ import annotations

import re
from typing import Any

import pytest

from decollapse.config import from_table, to_table
from decollapse.experiment import Experiment
from decollapse.report.view import lookup
from decollapse.reproduce.departures import cell_departures, departures
from decollapse.reproduce.grid import Choice, Grid, make_grid
from decollapse.reproduce.presets import load_preset
from decollapse.reproduce.protocol import Scale, base_recipe


def table(dataset: str, scale: Scale, *, overrides: tuple[str, ...] = ()) -> Grid:
    no_data: Any = None
    choice = Choice(load_preset("table1"), dataset, scale, "digits", overrides=overrides)
    return make_grid(choice, no_data)


def experiment(dataset: str, row: str, *, scale: Scale = "paper") -> Experiment:
    return next(cell.experiment for cell in table(dataset, scale).cells if cell.row == row)


@pytest.mark.parametrize(
    ("dataset", "rounds", "weight_decay", "augment"),
    [
        ("cifar10", 100, 1e-5, ["crop", "flip"]),
        ("cifar100", 100, 1e-4, ["crop", "flip", "autoaugment"]),
        ("tinyimagenet100", 100, 1e-4, ["crop", "flip", "autoaugment"]),
        ("tinyimagenet", 50, 1e-4, ["autoaugment"]),
    ],
)
def test_a_data_set_has_the_papers_protocol(dataset: str, rounds: int, weight_decay: float, augment: list[str]) -> None:
    recipe = to_table(from_table(base_recipe(dataset, "paper")))
    assert recipe["rounds"] == rounds
    assert recipe["num_clients"] == 10
    assert recipe.get("cohort_size") is None
    assert recipe["model"] == {"name": "mobilenetv2", "norm": "batch"}
    assert (recipe["client"]["epochs"], recipe["client"]["batch_size"]) == (10, 64)
    assert [change["name"] for change in recipe["client"]["augment"]] == augment
    optimizer = recipe["client"]["optimizer"]
    assert (optimizer["name"], optimizer["lr"], optimizer["momentum"]) == ("sgd", 0.01, 0.9)
    assert optimizer["weight_decay"] == weight_decay


@pytest.mark.parametrize(
    ("dataset", "mean", "std"),
    [
        ("cifar10", [125.3 / 255, 123.0 / 255, 113.9 / 255], [63.0 / 255, 62.1 / 255, 66.7 / 255]),
        ("cifar100", [0.50708, 0.48655, 0.44092], [0.26733, 0.25644, 0.27615]),
        ("tinyimagenet", [0.5] * 3, [0.5] * 3),
    ],
)
def test_pictures_are_normalised_as_the_papers_are(dataset: str, mean: list[float], std: list[float]) -> None:
    preprocess = base_recipe(dataset, "paper")["data"]["preprocess"]
    assert preprocess["mean"] == pytest.approx(mean)
    assert preprocess["std"] == pytest.approx(std)


@pytest.mark.parametrize(("dataset", "beta"), [("cifar10", 0.1), ("cifar100", 0.05), ("tinyimagenet", 0.1)])
def test_feddecorr_has_the_releases_strength_and_formula(dataset: str, beta: float) -> None:
    term = lookup(to_table(experiment(dataset, "FedAvg + FedDecorr")), "client", "objective", "feddecorr")
    assert (term["beta"], term["normalization"]) == (beta, "release")


@pytest.mark.parametrize(("dataset", "momentum"), [("cifar10", 0.9), ("cifar100", 0.5), ("tinyimagenet", 0.5)])
def test_fedavgm_has_the_releases_momentum(dataset: str, momentum: float) -> None:
    server = to_table(experiment(dataset, "FedAvgM"))["server"]
    assert (server["momentum"], server["damped"]) == (momentum, True)


def test_fedprox_and_moon_have_the_papers_coefficients() -> None:
    assert lookup(to_table(experiment("cifar10", "FedProx")), "client", "objective", "proximal", "mu") == 0.001
    moon = lookup(to_table(experiment("cifar10", "MOON")), "client", "objective", "moon")
    assert (moon["mu"], moon["temperature"]) == (1.0, 0.5)


@pytest.mark.parametrize(("dataset", "model"), [("cifar10", "projected"), ("tinyimagenet", "mobilenetv2")])
def test_moon_has_a_projection_on_cifar_only(dataset: str, model: str) -> None:
    found = to_table(experiment(dataset, "MOON + FedDecorr"))["model"]
    assert found["name"] == model
    assert found.get("widths", [640, 256]) == [640, 256]


def test_the_papers_scale_departs_in_nothing() -> None:
    assert not any(cell_departures(cell) for cell in table("cifar10", "paper").cells)


def test_the_small_scale_lists_its_departures_once_for_all_cells() -> None:
    listed = departures(table("cifar10", "small"))
    assert any(re.fullmatch(r"train size \d+ instead of all", line) for line in listed)
    assert len(set(listed)) == len(listed)


def test_a_setting_of_ones_own_is_a_departure() -> None:
    assert "7 rounds instead of 100" in departures(table("cifar10", "small", overrides=("rounds=7",)))
    assert departures(table("cifar10", "paper", overrides=("rounds=7",)))[0] == "7 rounds instead of 100"


def test_the_engine_is_a_departure_only_where_it_changes_the_arithmetic() -> None:
    before = departures(table("cifar10", "small"))
    assert departures(table("cifar10", "small", overrides=("engine.threads=2",))) == before
    told = departures(table("cifar10", "small", overrides=("engine.autocast=true",)))
    assert set(told) - set(before) == {"autocast yes instead of no"}


def test_a_departure_of_some_methods_names_them() -> None:
    (told,) = [line for line in departures(table("cifar10", "small")) if "projected" in line]
    assert told.startswith("MOON, MOON + FedDecorr: ")


def test_a_method_that_the_release_has_wrong_is_noted_where_it_is_shown() -> None:
    choice = Choice(load_preset("table1"), "cifar10", "paper", "digits", rows=("FedAvg", "FedProx"))
    no_data: Any = None
    (note,) = departures(make_grid(choice, no_data))
    assert note.startswith("FedProx: the release's proximal term is always 0")
