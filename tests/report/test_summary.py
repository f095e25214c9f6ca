from __future__ import annotations

import statistics

import pytest

from decollapse.report import group_runs, read_run, summary_rows
from decollapse.report.summary import HEADINGS, Statistic, by_round


def with_accuracy(*values: float):
    def change(record):
        return {**record, "evaluation": {"accuracy": values[record["round"]], "loss": 1.0}}

    return change


def read(paths):
    return [read_run(path) for path in paths]


def test_runs_that_differ_only_in_seed_are_one_group_ordered_by_seed(write_run) -> None:
    runs = read([write_run(f"{beta}-{seed}", beta=beta, seed=seed) for seed in (2, 0) for beta in (None, 0.1)])
    groups = group_runs(runs)
    assert [group.label for group in groups] == ["FedAvg", "FedAvg + FedDecorr 0.1"]
    assert [[run.seed for run in group.runs] for group in groups] == [[0, 2], [0, 2]]


def test_the_engine_does_not_split_a_group_but_its_dtype_does(write_run) -> None:
    recipe = {"seed": 0, "rounds": 6, "engine": {"name": "serial", "dtype": "float32"}}
    other = {**recipe, "seed": 1, "engine": {"name": "process", "dtype": "float32"}}
    double = {**recipe, "seed": 1, "engine": {"name": "serial", "dtype": "float64"}}
    serial, process, exact = read([write_run(str(i), recipe=table) for i, table in enumerate((recipe, other, double))])
    assert len(group_runs([serial, process])) == 1
    assert [group.label for group in group_runs([serial, exact])] == ["dtype float32", "dtype float64"]


def test_the_summary_is_mean_and_sample_standard_deviation_at_the_last_round(write_run) -> None:
    curves = [(0.1, 0.50), (0.1, 0.54), (0.1, 0.64)]
    recipe = {"rounds": 1}
    runs = [
        write_run(str(seed), finished=1, recipe={**recipe, "seed": seed}, change=with_accuracy(*curve))
        for seed, curve in enumerate(curves)
    ]
    (row,) = summary_rows(group_runs(read(runs)))
    accuracy = row.values["accuracy"]
    assert accuracy is not None
    assert accuracy.mean == pytest.approx(56.0)
    assert accuracy.std == pytest.approx(statistics.stdev([50, 54, 64]))
    assert (row.num_runs, row.round, accuracy.num) == (3, 1, 3)
    assert dict(zip(HEADINGS, row.cells(), strict=True))["accuracy (%)"] == "56.0 ± 7.2"


def test_one_seed_has_no_standard_deviation() -> None:
    assert Statistic.of([3.0]) == Statistic(mean=3.0, std=None, num=1)


def test_unfinished_runs_stay_out_of_the_mean_of_finished_ones(write_run) -> None:
    runs = [
        write_run("whole", seed=0, change=with_accuracy(*[0.5] * 7)),
        write_run("cut", seed=1, finished=2, change=with_accuracy(*[0.1] * 3)),
        write_run("new", seed=2, finished=None),
    ]
    (row,) = summary_rows(group_runs(read(runs)))
    assert row.values["accuracy"] == Statistic(mean=50.0, std=None, num=1)
    assert row.cells()[1:3] == ["1 of 3", "6"]


def test_where_no_run_is_finished_they_meet_at_the_last_round_all_have(write_run) -> None:
    runs = [write_run("a", seed=0, finished=4), write_run("b", seed=1, finished=2)]
    (group,) = group_runs(read(runs))
    assert group.round == 2
    assert summary_rows([group])[0].cells()[1:3] == ["2", "2 of 6"]


def test_the_compared_round_is_one_that_was_evaluated(write_run) -> None:
    def every_second(record):
        return {**record, "evaluation": None} if record["round"] % 2 else record

    (group,) = group_runs(read([write_run("a", finished=5, change=every_second)]))
    assert group.round == 4


def test_a_group_without_records_has_dashes(write_run) -> None:
    (row,) = summary_rows(group_runs(read([write_run("a", finished=None)])))
    assert set(row.values.values()) == {None}
    assert row.cells()[:3] == ["FedAvg", "0 of 1", "0 of 6"]


def test_round_0_does_not_make_a_round_look_cheap(write_run) -> None:
    (row,) = summary_rows(group_runs(read([write_run("a")])))
    seconds = row.values["seconds_per_round"]
    assert seconds is not None
    assert seconds.mean == 4.0


def test_a_mean_curve_has_only_rounds_that_all_runs_have(write_run) -> None:
    runs = read([write_run("a", seed=0, finished=4), write_run("b", seed=1, finished=2)])
    points = by_round(runs, lambda run: run.series("evaluation", "accuracy"))
    assert list(points) == [0, 1, 2]
    assert all(point.num == 2 for point in points.values())


def test_groups_that_words_cannot_tell_apart_are_numbered(write_run) -> None:
    tables = [{"rounds": 6, "server": {"name": name}, "of_a_later_version": 1} for name in ("sgd", "SGD")]
    groups = group_runs(read([write_run(str(index), recipe=table) for index, table in enumerate(tables)]))
    assert [group.label for group in groups] == ["FedAvg (1)", "FedAvg (2)"]
