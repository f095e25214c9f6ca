from __future__ import annotations

import numpy as np
import pytest

from decollapse.report import charts, group_runs, read_run
from decollapse.report.charts.spectra import visible


@pytest.fixture
def groups(two_groups):
    return group_runs([read_run(path) for path in two_groups])


def named(figure) -> dict:
    return {trace.name: trace for trace in figure.data if trace.name}


def test_a_curve_is_the_mean_over_seeds_in_percent_with_its_spread_as_a_band(groups) -> None:
    figure = charts.accuracy(groups).figure
    values = [[value for _, value in run.series("evaluation", "accuracy")] for run in groups[1].runs]
    line = named(figure)["FedAvg + FedDecorr 0.1"]
    band = figure.data[figure.data.index(line) - 1]
    mean, std = 100 * np.mean(values, axis=0), 100 * np.std(values, axis=0, ddof=1)
    np.testing.assert_allclose(line.y, mean)
    np.testing.assert_allclose(band.y, np.concatenate([mean + std, (mean - std)[::-1]]))
    assert list(band.x) == [*range(7), *range(6, -1, -1)]


def test_one_seed_has_no_band(groups, write_run) -> None:
    alone = group_runs([read_run(write_run("alone"))])
    assert len(charts.loss(alone).figure.data) == 1


def test_an_unfinished_run_is_a_dotted_line_of_its_own(write_run) -> None:
    runs = [write_run("a", seed=0), write_run("b", seed=1, finished=2)]
    figure = charts.accuracy(group_runs([read_run(path) for path in runs])).figure
    dotted = named(figure)["b (unfinished)"]
    assert dotted.line.dash == "dot"
    assert list(dotted.x) == [0, 1, 2]


def test_a_group_has_one_colour_and_one_name_on_every_chart(groups) -> None:
    figures = [charts.loss(groups), charts.dead_dimensions(groups), charts.global_spectrum(groups, of="correlation")]
    for index, group in enumerate(groups):
        colors = {named(chart.figure)[group.label].line.color for chart in figures}
        assert colors == {charts.stroke(index).color}


def test_the_first_forty_looks_are_all_different() -> None:
    looks = [charts.stroke(index) for index in range(40)]
    assert len(set(looks)) == 40


def test_the_global_spectrum_is_a_geometric_mean_on_a_logarithmic_axis_with_rank_1_first(groups) -> None:
    figure = charts.global_spectrum(groups, of="covariance").figure
    rows = np.stack([run.spectra.covariance for run in groups[1].runs])
    line = named(figure)["FedAvg + FedDecorr 0.1"]
    np.testing.assert_allclose(line.y, rows.prod(axis=0) ** (1 / 3), rtol=1e-5)
    assert line.x[0] == 1
    assert figure.layout.yaxis.type == "log"


def test_eigenvalues_that_are_rounding_error_are_not_drawn() -> None:
    np.testing.assert_array_equal(np.isnan(visible(np.array([1.0, 1e-6, 1e-12, 0.0, -1e-17]))), [0, 0, 1, 1, 1])
    assert np.isnan(visible(np.zeros(3))).all()


def test_local_spectra_are_one_chart_a_group_with_the_same_axes(groups) -> None:
    found = charts.local_spectra(groups)
    assert [chart.title for chart in found] == [group.label for group in groups]
    assert [len(chart.figure.data) for chart in found] == [11, 11]
    assert len({chart.figure.layout.yaxis.range for chart in found}) == 1


def test_the_global_model_is_left_out_of_a_local_chart_of_another_round(write_run) -> None:
    (chart,) = charts.local_spectra(group_runs([read_run(write_run("a", finished=5))]))
    assert len(chart.figure.data) == 10
    assert "global" not in chart.caption


def test_the_label_map_has_a_row_for_each_class_and_a_column_for_each_client(groups) -> None:
    (chart, *_) = charts.label_maps(groups)
    cells = chart.figure.data[0]
    np.testing.assert_array_equal(cells.z, np.array(groups[0].runs[0].class_counts).T)
    assert cells.y[3] == "Dress"


def test_groups_with_the_same_partition_share_a_label_map(write_run) -> None:
    run = write_run("a")
    same = [read_run(run), read_run(run)]
    groups = [*group_runs(same[:1]), *group_runs(same[1:])]
    assert len(charts.label_maps(groups)) == 1


def test_a_class_without_test_examples_is_an_empty_cell(write_run) -> None:
    def change(record):
        return {**record, "evaluation": {"accuracy": 0.5, "loss": 1.0, "per_class_accuracy": [None, 0.25] * 5}}

    (chart,) = charts.per_class(group_runs([read_run(write_run("a", change=change))]))
    cells = chart.figure.data[0]
    assert np.isnan(cells.z[0, 0])
    assert list(cells.text[0][:2]) == ["", "25"]


def test_charts_without_data_are_empty_not_errors(write_run) -> None:
    groups = group_runs([read_run(write_run("a", finished=None))])
    assert not charts.accuracy(groups).figure.data
    assert not charts.global_spectrum(groups, of="covariance").figure.data
    assert charts.local_spectra(groups) == []
    assert charts.per_class(groups) == []


def test_all_charts_by_round_have_the_same_axis_with_whole_rounds(groups) -> None:
    figures = [charts.loss(groups).figure, charts.local_effective_rank(groups).figure]
    assert {tuple(round(end, 2) for end in figure.layout.xaxis.range) for figure in figures} == {(-0.18, 6.18)}
    assert {figure.layout.xaxis.dtick for figure in figures} == {1}


def test_axes_are_labelled(groups) -> None:
    found = [
        charts.accuracy(groups),
        charts.loss(groups),
        charts.effective_rank(groups, of="covariance"),
        charts.local_effective_rank(groups),
        charts.global_spectrum(groups, of="covariance"),
        *charts.local_spectra(groups),
        *charts.label_maps(groups),
    ]
    for chart in found:
        assert chart.title
        assert chart.caption
        assert chart.figure.layout.xaxis.title.text
        assert chart.figure.layout.yaxis.title.text
