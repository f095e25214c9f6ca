from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from decollapse.reproduce.grid import Choice, Grid, make_grid
from decollapse.reproduce.plan import chosen, seed_list
from decollapse.reproduce.presets import load_preset
from decollapse.schema import RecipeError

THREE_DOMAINS: Any = SimpleNamespace(train_columns={"domain": torch.tensor([0, 2, 1, 2])})


def grid(name: str, dataset: str = "cifar10", **settings: Any) -> Grid:
    return make_grid(Choice(load_preset(name), dataset, "small", "digits", **settings), THREE_DOMAINS)


def test_all_methods_of_a_seed_come_before_the_next_seed() -> None:
    seeds = [run.experiment.seed for run in grid("table1", seeds=(0, 1, 5)).runs]
    assert seeds == [0] * 32 + [1] * 32 + [5] * 32


def test_cells_that_are_the_same_experiment_share_its_run() -> None:
    found = grid("beta", seeds=(0,))
    plain = [cell for cell in found.cells if cell.row == "FedAvg"]
    assert len(plain) == 5
    assert len({found.run_of(cell, 0) for cell in plain}) == 1
    assert len(found.runs) == 1 + 2 * 5


def test_runs_of_a_seed_differ_in_what_the_labels_say_and_in_nothing_else() -> None:
    plain, penalised = grid("table1").cells[:2]
    assert penalised.experiment.client.objective[0] == plain.experiment.client.objective[0]
    assert len(penalised.experiment.client.objective) == 2
    assert penalised.experiment.partition == plain.experiment.partition


def test_there_are_as_many_clients_as_domains() -> None:
    assert {cell.experiment.num_clients for cell in grid("feature_shift", "pacs").cells} == {3}


def test_a_choice_of_methods_is_the_rows_there_are() -> None:
    found = grid("table1", rows=("MOON", "FedAvg"))
    assert found.rows == ("MOON", "FedAvg")


def test_a_choice_of_conditions_is_the_columns_there_are() -> None:
    found = grid("epochs", columns=("epochs 10", "epochs 1"))
    assert found.columns == ("epochs 10", "epochs 1")
    assert len(found.cells) == 2 * len(found.rows)


def test_seeds_are_a_number_or_a_list() -> None:
    assert seed_list("2") == (0, 1)
    assert seed_list(" 4,2 ") == (4, 2)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"name": "tabel1"}, "there is no preset 'tabel1'; did you mean 'table1'?"),
        ({"dataset": "cifar"}, "did you mean 'cifar10'?"),
        ({"dataset": "pacs"}, "table1 is not made of a data set 'pacs'; there is cifar10, "),
        ({"scale": "smal"}, "there is no scale 'smal'; did you mean 'small'?"),
        ({"seeds": "0,1,0"}, "seed 0 is in the list twice"),
        ({"seeds": "0"}, "--seeds takes how many, at least 1"),
        ({"seeds": "a few"}, "--seeds takes how many, such as 3, or a list, such as 0,1,2; got 'a few'"),
        ({"rows": ["FedAvg,FedDecor"]}, "table1 has no method 'FedDecor'"),
        ({"columns": ["IID,IDD"]}, "table1 has no condition 'IDD'; did you mean 'IID'?"),
        ({"name": "hospitals", "scale": "paper"}, "it is no experiment of the paper"),
    ],
)
def test_a_wrong_choice_is_named(wrong: dict[str, Any], sentence: str) -> None:
    settings: dict[str, Any] = {"dataset": None, "scale": None, "seeds": "3", "data": None, "overrides": []}
    settings |= {"rows": [], "columns": []} | wrong
    with pytest.raises(RecipeError) as error:
        chosen(settings.pop("name", "table1"), **settings)
    assert sentence in str(error.value)
