"""The tables of a grid from numbers one can check by hand."""

from __future__ import annotations

import csv
import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from decollapse.report.summary import MISSING
from decollapse.report.view import RunView
from decollapse.reproduce.gains import best_table, gains_table
from decollapse.reproduce.grid import Choice, Grid, make_grid
from decollapse.reproduce.presets import read_preset
from decollapse.reproduce.results import Results
from decollapse.reproduce.writing import by_column_tables, long_table, own_table, published_table
from decollapse.tables import Table, as_csv

MINUS = "\N{MINUS SIGN}"
PRESET = """
title = "A table"
about = "Somewhere."
datasets = ["cifar10"]
rows = ["FedAvg", "FedAvg + FedDecorr 0.1", "FedAvg + FedDecorr 1", "FedAvg + DeCov 1", "FedAvg + DeCov 2"]
columns = ["IID", "10 clients"]

[words."DeCov {}"]
set = ["client.objective.decov.strength={}"]

[[published]]
dataset = "cifar10"
source = "Somebody, as recalled"
columns = ["IID"]
rows.FedAvg = [53.5]
"""
ACCURACY = {
    "FedAvg": {0: 50.0, 1: 52.0},
    "FedAvg + FedDecorr 0.1": {0: 51.0, 1: 54.0},
    "FedAvg + FedDecorr 1": {0: 40.0, 1: 40.0},
    "FedAvg + DeCov 1": {0: 49.0},
    "FedAvg + DeCov 2": {0: 50.0, 1: 53.0},
}
"""Under IID, by seed; seed 1 of DeCov 1 is not finished, and of 10 clients nothing is."""


@pytest.fixture
def results(tmp_path: Path) -> Results:
    path = tmp_path / "mine.toml"
    path.write_text(PRESET)
    no_data: Any = None
    grid = make_grid(Choice(read_preset(path), "cifar10", "small", "digits", seeds=(0, 1)), no_data)
    return Results(grid, {run: view(ACCURACY[run.cell.row][run.experiment.seed]) for run in finished(grid)})


def finished(grid: Grid) -> list[Any]:
    return [run for run in grid.runs if run.cell.column == "IID" and run.experiment.seed in ACCURACY[run.cell.row]]


def view(accuracy: float) -> RunView:
    records = (
        {"round": 0, "evaluation": {"accuracy": 0.1}, "seconds": {"total": 100.0}},
        {
            "round": 1,
            "evaluation": {
                "accuracy": accuracy / 100,
                "by_column": {"site": {"here": accuracy / 100, "there": accuracy / 200}},
            },
            "spectrum": {"covariance": {"effective_rank": accuracy / 10}},
            "seconds": {"total": 2.0},
        },
    )
    description = {"recipe": {"rounds": 1}, "test_groups": {"site": {"here": 20, "there": 10}}}
    return RunView(Path(), description, records, None, None)


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_the_table_is_mean_and_standard_deviation_of_the_last_round(results: Results) -> None:
    shown = own_table(results, results.column)
    assert [heading.title for heading in shown.headings] == ["method", "IID", "10 clients"]
    assert texts(shown)[0] == ["FedAvg", "51.0 ± 1.4", MISSING]
    assert shown.notes == ["Mean ± standard deviation over 2 seeds (0, 1)."]


def test_a_cell_with_unfinished_runs_says_so(results: Results) -> None:
    assert texts(own_table(results, results.column))[3] == ["FedAvg + DeCov 1", "49.0 (1 of 2 seeds)", MISSING]


def test_accuracy_at_each_value_of_a_column_has_a_table(results: Results) -> None:
    (table,) = by_column_tables(results).values()
    assert [heading.title for heading in table.headings] == ["method", "condition", "here (20)", "there (10)"]
    assert texts(table)[0] == ["FedAvg", "IID", "51.0 ± 1.4", "25.5 ± 0.7"]
    assert texts(table)[3] == ["FedAvg + DeCov 1", "IID", "49.0 (1 of 2 seeds)", "24.5 (1 of 2 seeds)"]
    assert texts(table)[5] == ["FedAvg", "10 clients", MISSING, MISSING]


def test_the_difference_to_a_published_number_is_of_the_mean(results: Results) -> None:
    assert texts(published_table(results)) == [
        ["FedAvg", "IID", "51.0 ± 1.4", "53.5", MINUS + "2.5", "Somebody, as recalled"],
    ]


def test_a_gain_is_the_mean_difference_within_a_seed(results: Results) -> None:
    first = texts(gains_table(results))[0]
    assert first[:4] == ["FedAvg + FedDecorr 0.1", "IID", "FedAvg", "+1.5"]
    assert first[5] == "2 of 2"
    assert gains_table(results).rows[0][6].numbers[""] == pytest.approx(0.15)  # dimensions of effective rank


def test_the_interval_is_students(results: Results) -> None:
    numbers = gains_table(results).rows[0][4].numbers
    margin = 12.7062 * 0.5  # the 97.5 % quantile with one degree of freedom; 1.5 is the mean of 1 and 2
    assert (numbers["low"], numbers["high"]) == pytest.approx((1.5 - margin, 1.5 + margin), abs=1e-4)


def test_only_an_interval_without_zero_stands_out(results: Results) -> None:
    strong = {row[0].text for row in gains_table(results).rows if row[3].strong}
    assert strong == set()  # even FedDecorr 1, 10 and 12 points below, with two seeds: -11 ± 12.7


def test_a_family_is_shown_at_its_best_beside_the_first_one(results: Results) -> None:
    first, second = texts(best_table(results))
    assert first == ["FedAvg + FedDecorr", "IID", "0.1", "52.5 ± 2.1", MISSING, MISSING, MISSING]
    assert second[:5] == ["FedAvg + DeCov", "IID", "2", "51.5 ± 2.1", MINUS + "1.0"]
    assert second[6] == "0 of 2"


def test_csv_has_unrounded_numbers_and_a_line_for_every_cell(results: Results) -> None:
    lines = list(csv.DictReader(StringIO(as_csv(long_table(results)))))
    assert len(lines) == 10
    assert float(lines[0]["accuracy_mean"]) == pytest.approx(51.0)
    assert float(lines[0]["seconds_per_round_mean"]) == 2.0
    assert float(lines[0]["accuracy_site_there_mean"]) == pytest.approx(25.5)
    assert lines[0]["published"] == "53.5"
    assert lines[5]["accuracy_mean"] == ""
    json.dumps(lines)


def test_every_row_is_compared_with_the_one_that_a_preset_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(PRESET.replace("datasets", 'against = "FedAvg + FedDecorr 0.1"\ndatasets', 1))
    no_data: Any = None
    grid = make_grid(Choice(read_preset(path), "cifar10", "small", "digits", seeds=(0, 1)), no_data)
    pairs = [(cell.row, other.row) for cell, other in Results(grid, {}).pairs() if cell.column == "IID"]
    assert pairs == [
        ("FedAvg", "FedAvg + FedDecorr 0.1"),
        ("FedAvg + FedDecorr 0.1", "FedAvg"),
        ("FedAvg + FedDecorr 1", "FedAvg"),
        ("FedAvg + FedDecorr 1", "FedAvg + FedDecorr 0.1"),
        ("FedAvg + DeCov 1", "FedAvg"),
        ("FedAvg + DeCov 1", "FedAvg + FedDecorr 0.1"),
        ("FedAvg + DeCov 2", "FedAvg"),
        ("FedAvg + DeCov 2", "FedAvg + FedDecorr 0.1"),
    ]
