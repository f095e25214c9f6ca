from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decollapse.report.labels import algorithm, differences, flatten, label

FEDDECORR = {"beta": 0.1, "normalization": "release"}


def recipe(objective: dict[str, Any] | None = None, **tables: Any) -> dict[str, Any]:
    terms = {"cross_entropy": {}} | (objective or {})
    return {
        "partition": {"name": "dirichlet", "alpha": 0.05},
        "client": {"epochs": 10, "objective": terms},
        "server": {"name": "sgd", "momentum": 0.0},
        **tables,
    }


def labels(*recipes: dict[str, Any]) -> list[str]:
    return [label(entry, differences(recipes)) for entry in recipes]


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        (recipe(), "FedAvg"),
        (recipe({"feddecorr": FEDDECORR}), "FedAvg + FedDecorr 0.1"),
        (recipe({"proximal": {"mu": 0.01}}), "FedProx 0.01"),
        (recipe({"proximal": {"mu": 0.01}, "feddecorr": FEDDECORR}), "FedProx 0.01 + FedDecorr 0.1"),
        (recipe(server={"name": "sgd", "momentum": 0.9}), "FedAvgM"),
        (recipe(server={"name": "adam"}), "FedAdam"),
        (recipe({"proximal": {"mu": 0.01}}, server={"name": "adam"}), "FedAdam + FedProx 0.01"),
        (recipe({"scaffold": {}}, server={"name": "scaffold"}), "SCAFFOLD"),
        (recipe({"feddyn": {"alpha": 0.1}}, server={"name": "feddyn"}), "FedDyn 0.1"),
        (recipe({"feddecorr": FEDDECORR}, aggregate={"name": "normalized_mean"}), "FedNova + FedDecorr 0.1"),
        (recipe(aggregate={"name": "krum"}), "Krum"),
        (recipe({"my_pkg.terms:MyTerm": {"weight": 2}}), "FedAvg + my pkg.terms:MyTerm"),
        ({}, "FedAvg"),
    ],
)
def test_an_algorithm_is_named_as_people_name_it(entry: dict[str, Any], name: str) -> None:
    assert algorithm(entry) == name


def test_parts_of_a_model_give_an_algorithm_its_name() -> None:
    client = {"objective": {"cross_entropy": {}, "feddecorr": FEDDECORR}}
    assert algorithm({"client": client | {"personal": ["norm"]}}) == "FedBN + FedDecorr 0.1"
    assert algorithm({"client": client | {"frozen": ["head"]}}) == "FedBABU + FedDecorr 0.1"
    assert algorithm({"client": client | {"optimizer": {"name": "sam"}}}) == "FedSAM + FedDecorr 0.1"


def test_a_term_that_only_one_recipe_has_is_told_by_the_algorithms_name_alone() -> None:
    assert labels(recipe(), recipe({"feddecorr": FEDDECORR})) == ["FedAvg", "FedAvg + FedDecorr 0.1"]


def test_a_coefficient_of_zero_is_the_algorithm_without_the_term() -> None:
    off, on = (recipe({"feddecorr": {**FEDDECORR, "beta": beta}}) for beta in (0, 0.1))
    assert labels(off, on) == ["FedAvg", "FedAvg + FedDecorr 0.1"]


def test_what_the_name_does_not_say_is_added() -> None:
    paper = recipe({"feddecorr": {"beta": 0.1, "normalization": "paper"}})
    assert labels(paper, recipe({"feddecorr": FEDDECORR})) == [
        "FedAvg + FedDecorr 0.1, normalization paper",
        "FedAvg + FedDecorr 0.1, normalization release",
    ]


def test_the_algorithm_is_left_out_where_all_have_the_same() -> None:
    mild, iid = recipe(partition={"name": "dirichlet", "alpha": 0.5}), recipe(partition={"name": "iid"})
    assert labels(recipe(), mild) == ["α 0.05", "α 0.5"]  # noqa: RUF001 (the paper's letter)
    assert labels(mild, iid) == ["Dirichlet, α 0.5", "IID"]  # noqa: RUF001


def test_two_things_that_differ_are_both_said() -> None:
    longer = recipe({"feddecorr": FEDDECORR}, client={"epochs": 20, "objective": {"feddecorr": FEDDECORR}})
    assert labels(recipe(), longer)[1] == "FedAvg + FedDecorr 0.1, 20 local epochs"


def test_server_momentum_is_said_with_its_value() -> None:
    strong, weak = (recipe(server={"name": "sgd", "momentum": value}) for value in (0.9, 0.5))
    assert labels(strong, weak) == ["FedAvgM, server momentum 0.9", "FedAvgM, server momentum 0.5"]


def test_one_recipe_alone_is_called_by_its_algorithm() -> None:
    assert labels(recipe({"feddecorr": FEDDECORR})) == ["FedAvg + FedDecorr 0.1"]


def test_a_value_in_place_of_a_table_is_a_difference() -> None:
    assert differences([{"model": "mlp"}, {"model": {"name": "mlp"}}]) == [("model",)]


TABLES = st.recursive(
    st.integers(0, 2), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=6
)
RECIPES = st.dictionaries(st.sampled_from("abc"), TABLES, max_size=3)


@settings(deadline=None)
@given(RECIPES, RECIPES)
def test_recipes_differ_exactly_where_they_are_not_equal(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert bool(differences([a, b])) == (a != b)


@settings(deadline=None)
@given(RECIPES)
def test_a_recipe_does_not_differ_from_its_copy(a: dict[str, Any]) -> None:
    assert differences([a, copy.deepcopy(a), a]) == []


def test_flattening_keeps_every_value() -> None:
    assert flatten({"a": {"b": {"c": 1}}, "d": {}}) == {("a", "b", "c"): 1, ("d",): {}}


def test_partitions_are_told_apart_by_name_and_alpha_alone() -> None:
    iid = {"partition": {"name": "iid"}, "client": {"objective": {"cross_entropy": {}}}}
    skewed = {**iid, "partition": {"name": "dirichlet", "alpha": 0.05, "min_examples": 10, "max_tries": 20000}}
    differing = differences([iid, skewed])
    assert label(iid, differing) == "IID"
    assert label(skewed, differing) == "Dirichlet, \N{GREEK SMALL LETTER ALPHA} 0.05"
