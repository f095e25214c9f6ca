from __future__ import annotations

import re
from typing import Any

import pytest

from decollapse.report import group_runs, read_run
from decollapse.report.baselines import gains, gains_over, named
from decollapse.report.comparison import METRICS

ACCURACY = METRICS["accuracy"]
TERMS: dict[str, dict[str, Any]] = {
    "cross_entropy": {},
    "feddecorr": {"beta": 0.1},
    "decov": {"strength": 0.1},
    "proximal": {"mu": 0.01},
    "moon": {"mu": 1.0},
}


def recipe(*terms: str, seed: int = 0, alpha: float = 0.05, **changes: Any) -> dict[str, Any]:
    objective = {name: TERMS[name] for name in ("cross_entropy", *terms)}
    return {
        "partition": {"name": "dirichlet", "alpha": alpha},
        "client": {"epochs": 5, "objective": objective},
        "rounds": 1,
        "seed": seed,
        **changes,
    }


def accuracy(percent: float):
    """What to give `write_run` as `change`: this accuracy, and a loss with the same digits."""
    return lambda record: {**record, "evaluation": {"accuracy": percent / 100, "loss": percent}}


@pytest.fixture
def make(write_run):
    """Groups of recipes, each with its final accuracies."""

    def groups(*runs: tuple[dict[str, Any], float]):
        folders = [
            write_run(str(number), recipe=table, finished=1, change=accuracy(percent))
            for number, (table, percent) in enumerate(runs)
        ]
        return group_runs([read_run(folder) for folder in folders])

    return groups


def test_feddecorr_is_paired_with_the_same_without_it_seed_by_seed(make) -> None:
    plain, ours = (50, 60, 40), (53, 62, 41)
    runs = [(recipe(seed=seed), percent) for seed, percent in enumerate(plain)]
    runs += [(recipe("feddecorr", seed=seed), percent) for seed, percent in enumerate(ours)]
    found = gains(make(*runs), ACCURACY)
    assert list(found.of) == ["FedAvg + FedDecorr 0.1"]
    gain = found.of["FedAvg + FedDecorr 0.1"]
    assert (gain.baseline, gain.seeds) == ("FedAvg", (0, 1, 2))
    assert gain.paired.mean == pytest.approx(2.0)  # of 3, 2 and 1
    assert gain.paired.std == pytest.approx(1.0)
    assert (gain.paired.wins, found.notes) == (3, ())


def test_every_condition_and_every_method_has_a_baseline_of_its_own(make) -> None:
    runs = [
        (recipe(*terms, alpha=alpha, seed=seed), 50 + seed)
        for alpha in (0.05, 0.5)
        for terms in ((), ("feddecorr",), ("proximal",), ("proximal", "feddecorr"))
        for seed in (0, 1)
    ]
    found = gains(make(*runs), ACCURACY)
    skew = "\N{GREEK SMALL LETTER ALPHA}"
    assert {label: gain.baseline for label, gain in found.of.items()} == {
        f"{method} + FedDecorr 0.1, {skew} {alpha}": f"{method}, {skew} {alpha}"
        for method in ("FedAvg", "FedProx 0.01")
        for alpha in (0.05, 0.5)
    }


def test_a_coefficient_of_zero_is_a_baseline(make) -> None:
    off = recipe("feddecorr")
    off["client"]["objective"]["feddecorr"] = {"beta": 0.0}
    found = gains(make((off, 50), (recipe("feddecorr"), 51)), ACCURACY)
    assert {label: gain.baseline for label, gain in found.of.items()} == {"FedAvg + FedDecorr 0.1": "FedAvg"}


def test_regularisers_are_paired_with_the_plainest_setting_there_is(make) -> None:
    found = gains(make((recipe("decov", "feddecorr"), 52), (recipe("decov"), 51), (recipe(), 50)), ACCURACY)
    assert {gain.baseline for gain in found.of.values()} == {"FedAvg"}
    assert len(found.of) == 2


def test_a_method_is_no_regulariser_and_another_setting_no_baseline(make) -> None:
    other = recipe("feddecorr", client={"epochs": 9, "objective": recipe("feddecorr")["client"]["objective"]})
    assert not gains(make((recipe(), 50), (recipe("moon"), 51), (other, 52)), ACCURACY).of


def test_a_baseline_has_the_same_coefficients(make) -> None:
    other = recipe("proximal")
    other["client"]["objective"]["proximal"] = {"mu": 1.0}
    assert not gains(make((other, 50), (recipe("proximal", "feddecorr"), 51)), ACCURACY).of


def test_runs_that_are_not_comparable_are_noted_and_the_others_paired(make, write_run) -> None:
    groups = make((recipe(), 50), (recipe("feddecorr", seed=7), 51), (recipe("decov"), 52))
    found = gains(groups, ACCURACY)
    assert list(found.of) == ["FedAvg + DeCov 0.1"]
    assert "'FedAvg + FedDecorr 0.1' and 'FedAvg' cannot be paired: they have no seed in common" in found.notes[0]


def test_seeds_without_a_partner_are_noted(make) -> None:
    runs = [(recipe(seed=seed), 50) for seed in range(4)] + [(recipe("feddecorr", seed=seed), 51) for seed in (1, 2, 9)]
    found = gains(make(*runs), ACCURACY)
    assert found.of["FedAvg + FedDecorr 0.1"].seeds == (1, 2)
    assert found.notes == ("'FedAvg + FedDecorr 0.1' and 'FedAvg' share 2 seeds; 3 runs have no pair.",)


def test_one_pair_is_said_to_give_no_interval(make) -> None:
    found = gains(make((recipe(), 50), (recipe("feddecorr"), 51)), ACCURACY)
    assert found.of["FedAvg + FedDecorr 0.1"].paired.interval is None
    assert "gives no interval; run more seeds" in found.notes[0]


def test_a_lower_loss_is_a_win(make) -> None:
    runs = [(recipe(seed=0), 50), (recipe(seed=1), 50), (recipe("feddecorr", seed=0), 49)]
    groups = make(*runs, (recipe("feddecorr", seed=1), 52))
    paired = gains(groups, METRICS["loss"]).of["FedAvg + FedDecorr 0.1"].paired
    assert (paired.mean, paired.wins, paired.losses) == (0.5, 1, 1)
    assert gains(groups, ACCURACY).of["FedAvg + FedDecorr 0.1"].paired.wins == 1


def test_a_number_nobody_recorded_is_noted(make) -> None:
    found = gains(make((recipe(), float("nan")), (recipe("feddecorr"), 51)), ACCURACY)
    assert not found.of
    assert "have recorded no accuracy (%) in common" in found.notes[0]


def test_a_baseline_of_ones_own_choice_is_paired_with_everything_else(make) -> None:
    groups = make((recipe(), 50), (recipe("moon"), 53), (recipe("feddecorr"), 51))
    found = gains_over(named(groups, "MOON 1"), groups, ACCURACY)
    assert {label: round(gain.paired.mean, 6) for label, gain in found.of.items()} == {
        "FedAvg": -3.0,
        "FedAvg + FedDecorr 0.1": -2.0,
    }


def test_an_algorithm_that_stands_under_several_conditions_is_the_baseline_under_each(make) -> None:
    runs = [(recipe(*terms, alpha=alpha), 50) for alpha in (0.05, 0.5) for terms in ((), ("moon",))]
    groups = make(*runs)
    found = gains_over(named(groups, "FedAvg"), groups, ACCURACY)
    skew = "\N{GREEK SMALL LETTER ALPHA}"
    assert {label: gain.baseline for label, gain in found.of.items()} == {
        f"MOON 1, {skew} 0.05": f"FedAvg, {skew} 0.05",
        f"MOON 1, {skew} 0.5": f"FedAvg, {skew} 0.5",
    }


def test_a_baseline_is_named_by_a_folder_of_its_runs(make) -> None:
    groups = make((recipe(), 50), (recipe("moon"), 53))
    folder = groups[1].runs[0].folder
    assert [group.label for group in named(groups, str(folder), [folder])] == ["MOON 1"]


def test_an_explicit_pair_that_is_not_comparable_is_refused_with_the_reason(make) -> None:
    groups = make((recipe(), 50), (recipe("feddecorr", alpha=0.5), 51))
    with pytest.raises(ValueError, match=re.escape("cannot be paired: partition.alpha is 0.5 in")):
        gains_over(groups[:1], groups, ACCURACY)


def test_two_baselines_that_are_equally_near_are_refused(make) -> None:
    longer = {"epochs": 9, "objective": recipe()["client"]["objective"]}
    shorter = {**longer, "epochs": 2}
    groups = make((recipe(client=longer), 50), (recipe(client=shorter), 51), (recipe("moon"), 52))
    with pytest.raises(ValueError, match="'MOON 1, 5 local epochs' could be compared with .* or .*; name one of them"):
        gains_over(named(groups, "FedAvg"), groups, ACCURACY)


def test_a_baseline_that_does_not_exist_is_answered_with_those_that_do(make) -> None:
    groups = make((recipe(), 50), (recipe("moon"), 53))
    with pytest.raises(
        ValueError, match="there is no setting 'FedAvgg' to compare with; name one of 'FedAvg', 'MOON 1'"
    ):
        named(groups, "FedAvgg")
