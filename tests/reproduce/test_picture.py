"""The picture of a table shows its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from decollapse.report.view import RunView
from decollapse.reproduce.grid import Choice, make_grid
from decollapse.reproduce.picture import FEW_METHODS, figure_of, method_looks, save_table
from decollapse.reproduce.presets import load_preset
from decollapse.reproduce.results import Results
from decollapse.reproduce.writing import RANK

NO_DATA: Any = None


def results(name: str, **choice: Any) -> Results:
    """Seed 0 is at 20 % and a rank of 4, seed 1 at 30 % and 6, in every cell but those of the last column."""
    grid = make_grid(Choice(load_preset(name), "cifar10", "small", "digits", seeds=(0, 1), **choice), NO_DATA)
    finished = [run for run in grid.runs if run.cell.column != grid.columns[-1]] if len(grid.columns) > 1 else grid.runs
    return Results(grid, {run: view(run.experiment.seed) for run in finished})


def view(seed: int) -> RunView:
    record = {
        "round": 1,
        "evaluation": {"accuracy": 0.2 + 0.1 * seed},
        "spectrum": {"covariance": {"effective_rank": 4.0 + 2 * seed}},
    }
    return RunView(Path(), {"recipe": {"rounds": 1}}, (record,), None, None)


def test_few_methods_stand_above_each_condition_that_has_runs() -> None:
    found = results("table1")
    accuracy, rank = figure_of(found, [found.column, RANK]).axes
    assert [label.get_text() for label in accuracy.get_xticklabels()] == list(found.grid.columns)
    assert (accuracy.get_ylabel(), rank.get_ylabel()) == (found.column.title, RANK.title)
    assert len(accuracy.containers) == len(found.grid.rows)
    for axis, mean, std in ((accuracy, 25.0, 50**0.5), (rank, 5.0, 2**0.5)):
        line, _, (bars,) = axis.containers[0]
        assert line.get_ydata() == pytest.approx([mean] * 3)  # nothing of the last condition is finished
        assert bars.get_segments()[0][:, 1] == pytest.approx([mean - std, mean + std])


def test_many_methods_are_lines_from_top_to_bottom() -> None:
    found = results("decorrelation")
    assert len(found.grid.rows) > FEW_METHODS
    accuracy, rank = figure_of(found, [found.column, RANK]).axes
    assert [label.get_text() for label in accuracy.get_yticklabels()] == list(found.grid.rows)
    assert accuracy.get_ylim() == rank.get_ylim() == (len(found.grid.rows) - 0.5, -0.5)
    line, _, (bars,) = accuracy.containers[0]
    assert line.get_xdata() == pytest.approx([25.0] * len(found.grid.rows))
    assert bars.get_segments()[0][:, 0] == pytest.approx([25 - 50**0.5, 25 + 50**0.5])


def test_dots_of_one_label_stand_beside_each_other() -> None:
    found = results("table1")
    (accuracy,) = figure_of(found, [found.column]).axes
    places = [container[0].get_xdata() for container in accuracy.containers]
    assert [float(place[0]) for place in places] == pytest.approx([-0.35, -0.25, -0.15, -0.05, 0.05, 0.15, 0.25, 0.35])
    assert [float(place[2]) for place in places] == pytest.approx([float(place[0]) + 2 for place in places])


def test_of_one_algorithm_every_method_has_a_colour_of_its_own() -> None:
    looks = method_looks(["FedAvg", "FedAvg + FedDecorr", "FedAvg + DeCov"])
    assert len({look.color for look in looks.values()}) == len({look.marker for look in looks.values()}) == 3
    assert [look.filled for look in looks.values()] == [False, True, True]


def test_the_same_table_is_drawn_in_the_same_bytes(tmp_path: Path) -> None:
    first, second = (save_table(results("table1"), tmp_path / name) for name in ("a", "b"))
    assert first == tmp_path / "a.svg"
    assert first.read_bytes() == second.read_bytes()
    words = [element.text for element in ElementTree.parse(first).iter() if element.text]
    assert {"FedAvg + FedDecorr", "MOON", "IID", RANK.title} <= set(words)
