from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from decollapse.reproduce.grid import Choice, make_grid
from decollapse.reproduce.presets import load_preset, preset_names, read_preset
from decollapse.reproduce.protocol import Scale, data_entries, scales_of
from decollapse.reproduce.words import meanings, shared_words
from decollapse.schema import RecipeError

FOUR_CLIENTS: Any = SimpleNamespace(train_columns={"domain": torch.arange(4), "site": torch.arange(4)})
PAGE = Path(__file__).parents[2] / "docs" / "reproduce.md"
TABLES = [
    (name, dataset, scale)
    for name in preset_names()
    for dataset in load_preset(name).datasets
    for scale in scales_of(dataset)
]
PRESET = """
title = "A table"
about = "Somewhere."
datasets = ["cifar10"]
rows = ["FedAvg", "FedAvg + FedDecorr"]
columns = ["IID"]
"""


@pytest.mark.parametrize(("name", "dataset", "scale"), TABLES)
def test_every_cell_of_every_table_is_a_recipe(name: str, dataset: str, scale: Scale) -> None:
    preset = load_preset(name)
    grid = make_grid(Choice(preset, dataset, scale, "digits"), FOUR_CLIENTS)
    assert len(grid.cells) == len(preset.rows_at(scale)) * len(preset.columns_at(scale))


@pytest.mark.parametrize(("name", "dataset", "scale"), TABLES)
def test_no_two_cells_of_a_table_have_the_same_folder(name: str, dataset: str, scale: Scale) -> None:
    runs = make_grid(Choice(load_preset(name), dataset, scale, "digits"), FOUR_CLIENTS).runs
    assert len({run.path for run in runs}) == len(runs)


def test_adding_a_table_is_adding_one_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(PRESET + '[words."FedAvg + FedDecorr"]\nset = ["client.objective.feddecorr.beta=7.0"]\n')
    preset = read_preset(path)
    assert preset.name == "mine"
    cell = make_grid(Choice(preset, "cifar10", "small", "digits"), FOUR_CLIENTS).cells[1]
    assert cell.experiment.client.objective[1].beta == 7.0  # type: ignore[attr-defined]  # it is FedDecorr


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ('colums = ["IID"]', "colums: Unexpected keyword argument"),
        ('measure = "acuracy"', "did you mean 'accuracy'?"),
        ('[small]\nrows = ["FedAgv"]', "'FedAgv', which is no word of words.toml or of the preset; did you mean 'Fed"),
        ('[small]\nrows = ["FedAvg", "FedAvg"]', "none twice"),
        ('[[published]]\ndataset = "cifar"\nsource = "x"\ncolumns = []\nrows = {}', "did you mean 'cifar10'?"),
        (
            '[[published]]\ndataset = "cifar10"\nsource = "x"\ncolumns = ["iid"]\nrows = {}',
            "x is given for 'iid'",
        ),
        (
            '[[published]]\ndataset = "cifar10"\nsource = "x"\ncolumns = ["IID"]\nrows.FedAvg = [1, 2]',
            "x, FedAvg: 2 numbers for 1 columns",
        ),
    ],
)
def test_a_typo_in_a_preset_is_named(tmp_path: Path, wrong: str, sentence: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"{PRESET}\n{wrong}\n")
    with pytest.raises(RecipeError) as error:
        read_preset(path)
    assert str(error.value).startswith("mine.toml: ")
    assert sentence in str(error.value)


def test_a_setting_that_no_recipe_has_is_named_with_its_cell(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(PRESET + 'set = ["client.epoch=3"]\n')
    with pytest.raises(RecipeError, match="mine, IID, FedAvg: client.epoch is no setting"):
        make_grid(Choice(read_preset(path), "cifar10", "small", "digits"), FOUR_CLIENTS)


def test_what_nobody_looked_up_again_is_labelled_as_recalled() -> None:
    published = [numbers for name in preset_names() for numbers in load_preset(name).published]
    assert published
    assert all("as recalled" in numbers.source for numbers in published if "Shi" in numbers.source)


def test_a_value_in_a_label_is_one_word() -> None:
    assert [value for _, value in meanings("FedAvg + FedDecorr 0.03", shared_words())] == ["", "0.03"]
    with pytest.raises(RecipeError, match="no word"):
        meanings("IID or so", shared_words())


def test_every_table_is_on_the_page_about_them() -> None:
    page = PAGE.read_text()
    assert [name for name in preset_names() if f"\n| `{name}` |" not in page] == []


def test_the_pages_own_table_can_be_made(tmp_path: Path) -> None:
    (source,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    path = tmp_path / "mine.toml"
    path.write_text(source)
    grid = make_grid(Choice(read_preset(path), "cifar10", "small", "digits"), FOUR_CLIENTS)
    assert len(grid.cells) == 6
    assert {cell.experiment.rounds for cell in grid.cells} == {20}


def test_every_data_set_says_how_to_get_it() -> None:
    assert all(entry.get and entry.data.startswith("npz:") for entry in data_entries().values())
