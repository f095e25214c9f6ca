from __future__ import annotations

import json
import re
from typing import Any

import pytest

from decollapse.report import Group, group_runs, read_run
from decollapse.report.comparability import obstacle, shares_conditions

PLAIN = {"epochs": 5, "objective": {"cross_entropy": {}}}
FEDDECORR = {"epochs": 5, "objective": {"cross_entropy": {}, "feddecorr": {"beta": 0.1}}}


def recipe(**changes: Any) -> dict[str, Any]:
    return {
        "data": {"name": "digits", "train_size": None},
        "partition": {"name": "dirichlet", "alpha": 0.05},
        "num_clients": 10,
        "cohort_size": None,
        "model": {"name": "mlp"},
        "client": PLAIN,
        "rounds": 6,
        "seed": 0,
        **changes,
    }


def settings(*folders) -> tuple[Group, Group]:
    first, second = group_runs([read_run(folder) for folder in folders])
    return first, second


@pytest.fixture
def two(write_run):
    """`two(rounds=3)`: the usual setting, in folder a, and one with that change, in folder b."""
    return lambda **changes: settings(write_run("a", recipe=recipe()), write_run("b", recipe=recipe(**changes)))


@pytest.mark.parametrize(
    "method",
    [
        {"client": {"epochs": 10, "objective": {"cross_entropy": {}}}},
        {"client": FEDDECORR},
        {"server": {"name": "sgd", "momentum": 0.9}},
        {"model": {"name": "mlp", "norm": "batch"}},
        {"engine": {"dtype": "float64"}},
    ],
)
def test_settings_that_differ_in_the_method_are_comparable(two, method: dict[str, Any]) -> None:
    first, second = two(**method)
    assert obstacle(first, second) is None
    assert shares_conditions(first, second)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"partition": {"name": "dirichlet", "alpha": 0.5}}, "partition.alpha is 0.05 in .*a and 0.5 in .*b;"),
        ({"partition": {"name": "iid"}}, "partition.name is dirichlet in .*a and iid in .*b;"),
        ({"num_clients": 20}, "num_clients is 10 in .*a and 20 in .*b;"),
        ({"cohort_size": 5}, "cohort_size is 10 in .*a and 5 in .*b;"),
        ({"rounds": 3}, "rounds is 6 in .*a and 3 in .*b;"),
    ],
)
def test_other_conditions_are_told_with_both_runs_and_both_values(two, change: dict[str, Any], said: str) -> None:
    first, second = two(**change)
    assert not shares_conditions(first, second)
    assert re.search(said, obstacle(first, second) or "")


def test_all_clients_are_a_cohort_whether_it_is_said_or_not(two) -> None:
    assert obstacle(*two(cohort_size=10, client=FEDDECORR)) is None


def test_data_are_the_same_by_their_examples_not_by_their_names(two, write_run) -> None:
    elsewhere = {"name": "npz:elsewhere/digits", "train_size": None}
    assert obstacle(*two(data=elsewhere)) is None
    other = write_run("c", recipe=recipe(data=elsewhere), fingerprint="0ther")
    first, second = settings(write_run("d", recipe=recipe()), other)
    assert "data.name is digits" in (obstacle(first, second) or "")


def test_other_examples_under_the_same_name_are_found_out(write_run) -> None:
    ours = write_run("a", recipe=recipe())
    theirs = write_run("b", recipe=recipe(client=FEDDECORR), fingerprint="0ther")
    assert re.search("the data of .*a and .*b are not the same examples", obstacle(*settings(ours, theirs)) or "")


def test_another_split_of_the_same_recipe_is_found_out(two, write_run) -> None:
    ours, theirs = write_run("a", recipe=recipe()), write_run("b", recipe=recipe(client=FEDDECORR))
    description = json.loads((theirs / "run.json").read_text())
    description["partition"]["class_counts"][0][0] += 1
    (theirs / "run.json").write_text(json.dumps(description))
    assert re.search(
        "splits among the clients of .*a and .*b are not the same", obstacle(*settings(ours, theirs)) or ""
    )


def test_the_same_seed_twice_counts_once(write_run) -> None:
    folders = [write_run(name, recipe=recipe(seed=3)) for name in ("a", "again")]
    first, second = settings(*folders, write_run("b", recipe=recipe(client=FEDDECORR)))
    for pair in ((first, second), (second, first)):
        assert re.search("a and .*again are the same setting with the same seed 3", obstacle(*pair) or "")


def test_settings_without_a_seed_in_common_are_no_pair(two) -> None:
    found = obstacle(*two(client=FEDDECORR, seed=1))
    assert "they have no seed in common, 0 there and 1 here" in (found or "")


def test_a_setting_that_has_not_begun_is_no_pair(write_run) -> None:
    ours, theirs = write_run("a", recipe=recipe()), write_run("b", recipe=recipe(client=FEDDECORR), finished=None)
    assert "none that has begun here" in (obstacle(*settings(ours, theirs)) or "")


def test_settings_are_compared_at_one_round(write_run) -> None:
    ours, theirs = write_run("a", recipe=recipe()), write_run("b", recipe=recipe(client=FEDDECORR), finished=4)
    assert "they stand at rounds 6 and 4; finish both" in (obstacle(*settings(ours, theirs)) or "")
