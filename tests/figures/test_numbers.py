"""The numbers drawn: by hand first, then against numpy on the files of a run."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_study import IID, Drawn, MakeView, dirichlet

from decollapse.figures.charts import significant_charts, spectra_charts
from decollapse.figures.drawing import significant_figure, spectra_figure
from decollapse.figures.numbers import THRESHOLDS, MeasuredPanel, measured
from decollapse.figures.panels import ALPHA, panels_of
from decollapse.figures.words import captions
from decollapse.report.view import read_run


@pytest.fixture
def by_hand(make_view: MakeView) -> list[MeasuredPanel]:
    runs = [
        make_view(IID, seed=0, spectrum=[1.0, 0.1, 0.001], local=[[1.0, 0.01, 0.0], [100.0, 10.0, 0.1]]),
        make_view(IID, seed=1, spectrum=[100.0, 0.1, 0.1], local=[[10.0, 1.0, 1.0]]),
    ]
    return measured(panels_of(runs), absolute=False)


def test_relative_spectra_are_averaged_geometrically_over_seeds(by_hand: list[MeasuredPanel]) -> None:
    (one,) = by_hand[0].curves
    np.testing.assert_allclose(one.mean, [0.0, -2.0, -3.0])  # (0, -1, -3) and (0, -3, -3)


def test_local_spectra_are_averaged_over_every_client_and_a_zero_ends_the_curve(by_hand: list[MeasuredPanel]) -> None:
    (one,) = by_hand[0].curves
    np.testing.assert_allclose(one.local_mean, [0.0, -4 / 3, np.nan])  # (0, -2, none), (0, -1, -3), (0, -1, -1)


def test_dimensions_are_counted_for_each_seed_before_the_mean(by_hand: list[MeasuredPanel]) -> None:
    (one,) = by_hand[0].curves
    assert one.significant(-2.0) == [2, 1]
    assert one.significant(-4.0) == [3, 3]
    assert one.local_significant(-2.5) == [2.0, 3.0]  # of the two clients, (2, 2); of the one, 3
    assert one.by_threshold()[list(THRESHOLDS).index(-2.0)] == 1.5


def test_absolute_spectra_are_as_they_are(make_view: MakeView) -> None:
    runs = [make_view(IID, spectrum=[100.0, 0.1], local=[[10.0, 1.0]])]
    (one,) = measured(panels_of(runs), absolute=True)[0].curves
    np.testing.assert_allclose(one.mean, [2.0, -1.0])
    np.testing.assert_allclose(one.local_mean, [1.0, 0.0])
    assert one.significant() == [2]


def test_eigenvalues_that_are_rounding_error_are_zeros(make_view: MakeView) -> None:
    runs = [make_view(IID, spectrum=[1.0, 1e-12])]
    (one,) = measured(panels_of(runs), absolute=False)[0].curves
    np.testing.assert_array_equal(one.mean, [0.0, np.nan])
    assert one.by_threshold().max() == 1


def test_captions_say_what_was_averaged_and_what_the_threshold_is(by_hand: list[MeasuredPanel]) -> None:
    said = captions(by_hand, [])
    assert "divided by its largest" in said["global"]
    assert "geometric mean over 2 seeds" in said["global"]
    assert "above 0.01 of the largest: mean and standard deviation over 2 seeds" in said["significant"]


@pytest.fixture(scope="module")
def panels(drawn: Drawn) -> list[MeasuredPanel]:
    folders = sorted(path.parent for path in drawn.folder.rglob("run.json"))
    return measured(panels_of([read_run(folder) for folder in folders]), absolute=False)


def arrays(drawn: Drawn, name: str, key: str) -> list[np.ndarray]:
    files = [drawn.folder / "runs" / name / f"seed={seed}" / "spectra" / "round-0002.npz" for seed in (0, 1)]
    return [np.load(file)[key] for file in files]


NAMES = {
    ("FedAvg", f"{ALPHA} = 0.05"): "alpha=0.05",
    ("FedAvg", "IID"): "iid",
    ("FedAvg + FedDecorr 0.1", f"{ALPHA} = 0.01"): "alpha=0.01,feddecorr",
}


@pytest.mark.parametrize(("shown", "name"), NAMES.items())
def test_the_json_is_what_the_files_of_the_runs_say(drawn: Drawn, shown: tuple[str, str], name: str) -> None:
    table = json.loads((drawn.folder / "figures.json").read_text())
    (found,) = [one for one in table["settings"] if (one["panel"], one["curve"]) == shown]
    spectra = [values / values.max() for values in arrays(drawn, name, "global_covariance")]
    local = np.concatenate([rows / rows.max(1, keepdims=True) for rows in arrays(drawn, name, "local_covariance")])
    counts = [np.count_nonzero(values > 0.01) for values in spectra]
    assert found["seeds"] == [0, 1]
    assert found["significant"]["mean"] == pytest.approx(np.mean(counts))
    assert found["significant"]["std"] == pytest.approx(np.std(counts, ddof=1))
    assert found["significant_local"]["mean"] == pytest.approx(np.mean((local > 0.01).sum(1)))
    for key, rows in (("log10_global", np.stack(spectra)), ("log10_local", local)):
        with np.errstate(divide="ignore"):
            expected = np.log10(np.where(rows > 1e-9, rows, 0)).mean(axis=0)
        shown_values = [value for value in found[key] if value is not None]
        np.testing.assert_allclose(shown_values, expected[np.isfinite(expected)], atol=6e-4)


def test_paper_and_page_draw_the_same_numbers(panels: list[MeasuredPanel]) -> None:
    for of in ("global", "local"):
        axes, charts = spectra_figure(panels, of=of).axes, spectra_charts(panels, of=of)
        for panel, axis, chart in zip(panels, axes, charts, strict=True):
            values = [one.mean if of == "global" else one.local_mean for one in panel.curves]
            curves = axis.lines[1:]  # after the threshold
            assert len(curves) == len(chart.figure.data) == len(values) == 4
            for expected, line, trace in zip(values, curves, chart.figure.data, strict=True):
                np.testing.assert_allclose(line.get_ydata(), expected)
                np.testing.assert_allclose(trace.y, expected, atol=1e-4)
                assert line.get_color() == trace.line.color


def test_the_counts_are_drawn_with_their_deviation(panels: list[MeasuredPanel]) -> None:
    first, *_ = significant_figure(panels).axes
    chart, *thresholds = significant_charts(panels)
    for panel, bars, trace in zip(panels, first.containers, chart.figure.data, strict=True):
        counts = np.array([one.significant() for one in panel.curves])
        np.testing.assert_allclose(np.array(bars.lines[0].get_ydata(), float), counts.mean(axis=1))
        np.testing.assert_allclose(np.array(trace.y, float), counts.mean(axis=1))
        np.testing.assert_allclose(np.array(trace.error_y.array, float), counts.std(axis=1, ddof=1))
    assert [len(one.figure.data) for one in thresholds] == [4, 4]


def test_one_seed_has_no_deviation(make_view: MakeView) -> None:
    panels = measured(panels_of([make_view(IID), make_view(dirichlet(0.1))]), absolute=False)
    (chart, _) = significant_charts(panels)
    assert chart.figure.data[0].error_y.visible is False
    assert "1 seed" in captions(panels, [])["significant"]
    assert "deviation" not in captions(panels, [])["significant"]
