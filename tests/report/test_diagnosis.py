from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decollapse.report import charts, group_runs, read_run, write_report
from decollapse.report.charts.evolution import MAX_POINTS, thinned
from decollapse.report.diagnosed import (
    ClientRow,
    classes_of,
    client_rows,
    contributions,
    effective_number,
    expected_rank,
    findings,
    rank_series,
)
from decollapse.report.eigenvalues import MAX_ROUNDS, by_round

NASTY = '</script><img src=x onerror="alert(1)">&<b>${title}'
WAY = "run with -s evaluation.local_every=1 to have every round diagnosed."


@pytest.fixture
def page(tmp_path: Path) -> Callable[..., str]:
    """The text of the diagnosis of a report on some folders, markup and all."""

    def write(*folders: Path) -> str:
        html = write_report(folders, tmp_path / "r.html").read_text(encoding="utf-8")
        (part,) = re.findall(r'<section id="diagnosis">.*?</section>', html, re.DOTALL)
        return unescape(part).replace("\N{NO-BREAK SPACE}", " ")

    return write


def drawn(folder: Path, tmp_path: Path) -> dict[str, Any]:
    html = write_report([folder], tmp_path / "r.html").read_text(encoding="utf-8")
    return json.loads(re.search(r'id="charts">(.*?)</script>', html, re.DOTALL)[1])


def groups_of(*folders: Path):
    return group_runs([read_run(folder) for folder in folders])


def row_of(finding, client: int) -> ClientRow:
    (row,) = (row for row in client_rows(finding) if row.client == client)
    return row


# Verdicts


def test_each_setting_has_its_verdict_with_the_remedy_and_where_it_is_from(page, write_run, diagnose) -> None:
    bad = diagnose(rank=3.0, cause="local_training", sentence="Local training collapses.", remedy="Add FedDecorr.")
    text = page(write_run("a", change=bad), write_run("b", beta=0.1, change=diagnose()))
    first, second = re.findall(r'<article class="card verdict (\w+)">(.*?)</article>', text)
    assert (first[0], second[0]) == ("bad", "good")
    assert "FedAvg</h3>" in first[1]
    assert '<p class="finding">Local training collapses.</p>' in first[1]
    assert "<strong>Remedy.</strong> Add FedDecorr." in first[1]
    assert "Round 6, seed 0." in first[1]
    assert "No collapse." in second[1]


def test_seeds_that_agree_are_said_to(page, write_run, diagnose) -> None:
    text = page(*(write_run(str(seed), seed=seed, change=diagnose()) for seed in range(3)))
    assert "Round 6, seed 0. All 3 seeds agree." in text


def test_the_verdict_of_most_seeds_comes_first_and_the_others_follow(page, write_run, diagnose) -> None:
    good, bad = diagnose(), diagnose(cause="averaging", sentence="Averaging collapses.", remedy="Average less.")
    text = page(*(write_run(str(seed), seed=seed, change=change) for seed, change in enumerate([good, bad, bad])))
    assert '<p class="finding">Averaging collapses.</p>' in text
    assert "Round 6, seed 1. Seeds disagree: 2 of 3 find this." in text
    assert "Seed 0: No collapse. Nothing to repair." in text


@pytest.mark.parametrize("cause", ["too_few_examples", "a cause of later"])
def test_a_verdict_that_cannot_tell_or_is_not_known_is_marked_unsure(page, write_run, diagnose, cause: str) -> None:
    assert '<article class="card verdict unsure">' in page(write_run("a", change=diagnose(cause=cause)))


def test_the_verdict_comes_before_all_else(page, write_run, diagnose) -> None:
    text = page(write_run("a", change=diagnose()))
    places = [text.index(mark) for mark in ("card verdict", "averaged model", "evolution-0", "attribution-0")]
    places += [text.index(mark) for mark in ("classes-rank", "Clients by contribution", "Neural collapse")]
    assert places == sorted(places)


def test_the_evidence_is_a_mean_over_seeds_with_its_spread_unless_all_are_the_same(page, write_run, diagnose) -> None:
    folders = [write_run(str(seed), seed=seed, change=diagnose(rank=4.0 + 2 * seed)) for seed in range(2)]
    cells = re.search(r"<tbody><tr><th.*?>.*?</th>(.*?)</tr>", page(*folders))[1]
    # Round, averaged, median of local, side by side, mean, expected, dimensions, dead, examples: seeds 4 and 6.
    expected = ["6", "5.0 ± 1.4", "6.5 ± 1.4", "15.0 ± 4.2", "4.5 ± 1.3", "9.0", "64", "1.0", "2000"]
    assert re.findall(r"<td>(.*?)</td>", cells) == expected


def test_a_column_that_no_run_has_a_number_for_is_left_out(page, write_run, diagnose) -> None:
    text = page(write_run("a", change=diagnose(also={"lost_variance": None})))
    assert "NC1" in text
    assert "NC3</th>" not in text
    assert "BatchNorm variance lost (%)" not in text


# Runs without a diagnosis


def test_runs_without_a_diagnosis_have_one_sentence_that_says_how_to_get_it(page, write_run) -> None:
    sentence = f'<p class="undiagnosed">No diagnosis of these runs: {WAY}</p>'
    assert page(write_run("a")) == f'<section id="diagnosis"><h2>Diagnosis</h2>{sentence}</section>'


@pytest.mark.parametrize("diagnosis", [None, {}, [], "words", 3])
def test_a_diagnosis_that_is_none_is_no_error(page, write_run, diagnosis: object) -> None:
    assert WAY in page(write_run("a", change=lambda record: {**record, "diagnosis": diagnosis}))


def test_a_setting_without_a_diagnosis_is_named_beside_one_that_has_it(page, write_run, diagnose) -> None:
    text = page(write_run("a"), write_run("b", beta=0.1, change=diagnose()))
    assert f"No diagnosis of FedAvg: {WAY}" in text
    assert text.count("card verdict") == 1


def test_the_last_diagnosis_counts_where_the_last_round_has_none(page, write_run, diagnose) -> None:
    assert "Round 3, seed 0." in page(write_run("a", change=diagnose(), finished=5))


@pytest.mark.parametrize(
    "missing", ["verdict", "evidence", "attribution", "clients", "neural_collapse", "drift", "lost_variance"]
)
@pytest.mark.parametrize("value", [None, {}, []])
def test_a_diagnosis_that_lacks_a_part_makes_a_page(page, write_run, diagnose, missing: str, value: object) -> None:
    text = page(write_run("a", change=diagnose(also={missing: value})))
    assert "card verdict" in text
    assert ("no verdict" in text) == (missing == "verdict")


def test_a_verdict_alone_makes_a_page(page, write_run) -> None:
    text = page(write_run("a", change=lambda record: {**record, "diagnosis": {"verdict": {"sentence": "So."}}}))
    assert '<p class="finding">So.</p>' in text
    assert "<strong>Remedy" not in text


def test_text_of_a_diagnosis_stays_text(write_run, diagnose, tmp_path: Path) -> None:
    change = diagnose(cause=NASTY, sentence=NASTY, remedy=NASTY)
    recipes = [{"rounds": 6, "seed": 0, "model": {"name": name}} for name in (NASTY, "plain")]
    folders = [write_run(str(index), recipe=recipe, change=change) for index, recipe in enumerate(recipes)]
    html = write_report(folders, tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<img" not in html
    assert html.count("</script>") == html.count("<script")
    assert '<p class="finding">&lt;/script&gt;&lt;img src=x onerror=&quot;alert(1)&quot;&gt;' in html


# Clients


def test_contributions_are_shares_of_the_mean_update() -> None:
    updates, weights = np.array([[3.0, 0.0], [0.0, 1.0], [-1.0, 0.5]]), np.array([0.5, 0.25, 0.25])
    mean = weights @ updates
    norms = np.linalg.norm(updates, axis=1)
    cosines = updates @ mean / norms / np.linalg.norm(mean)
    expected = weights * (updates @ mean) / (mean @ mean)
    np.testing.assert_allclose(contributions([10, 5, 5], norms.tolist(), cosines.tolist()), expected)
    assert expected.sum() == pytest.approx(1)
    assert expected[2] < 0


@pytest.mark.parametrize(
    ("weights", "norms", "cosines"), [([1, 1], [1.0, None], [1.0, 1.0]), ([1, 1], [0.0, 0.0], [0.0, 0.0]), ([], [], [])]
)
def test_without_a_number_or_a_mean_update_nobody_has_a_contribution(weights, norms, cosines) -> None:
    assert contributions(weights, norms, cosines) == [None] * len(weights)


def test_the_effective_number_of_classes_is_exp_of_the_entropy() -> None:
    assert effective_number([3, 3, 3, 0]) == pytest.approx(3)
    shares = np.array([0.5, 0.25, 0.25])
    assert effective_number([20, 10, 10]) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert effective_number([7, 0]) == 1
    assert effective_number([]) is None


def test_a_client_beyond_the_recorded_partition_has_no_number_of_classes(write_run) -> None:
    run = read_run(write_run("a"))
    assert classes_of(run, 9) is not None
    assert classes_of(run, 10) is None
    assert classes_of(run, -1) is None


def test_clients_are_sorted_by_contribution(write_run, diagnose) -> None:
    (finding,) = findings(*groups_of(write_run("a", change=diagnose())))
    rows = client_rows(finding)
    shares = [row.contribution for row in rows]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)
    # Client 9 has cosine 0.8 - 0.9, so it pulls against the mean.
    assert rows[-1].client == 9
    assert rows[-1].contribution < 0


def test_the_numbers_of_a_client_are_its_own(write_run, diagnose) -> None:
    (finding,) = findings(*groups_of(write_run("a", change=diagnose(rank=12.0))))
    row, counts = row_of(finding, 4), finding.run.class_counts[4]
    assert row.num_examples == sum(counts)
    assert row.num_classes == effective_number(counts)
    assert row.rank == pytest.approx(12 + 2 * 0.4 + 0.6)
    assert (row.probe_accuracy, row.cosine, row.norm) == pytest.approx((0.34, 0.4, 1.6))
    assert (row.overlap, row.cka) == pytest.approx((0.38, 0.68))


def test_lists_that_are_too_short_or_hold_null_leave_gaps_not_errors(write_run, diagnose) -> None:
    change = diagnose(also={"drift": {"norms": [1.0, None], "cosines": [0.5, 0.5]}, "clients": [3, "x", None, 1]})
    (finding,) = findings(*groups_of(write_run("a", change=change)))
    rows = client_rows(finding)
    assert {row.client for row in rows} == {3, 1}
    assert [row.contribution for row in rows] == [None, None]


def test_a_table_of_clients_shows_every_number_and_a_dash_for_what_is_missing(page, write_run, diagnose) -> None:
    text = page(write_run("a", change=diagnose(also={"drift": None})))
    table = text[text.index("Clients by contribution") :]
    assert '<table class="sortable">' in table
    (cells,) = re.findall(r'<th scope="row">0</th>(.*?)</tr>', table)
    found = re.findall(r"<td>(.*?)</td>", cells)
    assert found[0] == "\N{EN DASH}"
    assert found[3:] == ["12.6", "30.0", "\N{EN DASH}", "1.20", "0.30", "0.60"]


# Charts


def test_spectra_have_a_frame_for_the_untrained_model_and_each_diagnosed_round(write_run, diagnose) -> None:
    folder = write_run("a", change=diagnose())
    (chart,) = charts.spectra_by_round(groups_of(folder))
    assert [frame.name for frame in chart.figure.frames] == ["0", "3", "6"]
    assert [len(frame.data) for frame in chart.figure.frames] == [2, 2, 2]
    arrays = np.load(folder / "spectra" / "round-0003.npz")
    local, averaged = chart.figure.frames[1].data
    np.testing.assert_allclose(np.array(averaged.y, dtype=float), _shown(arrays["global_covariance"]), rtol=1e-3)
    third = [y for y, client in zip(local.y, local.customdata, strict=True) if client == 2]
    np.testing.assert_allclose(np.array(third, dtype=float), _shown(arrays["local_covariance"][2]), rtol=1e-3)
    assert list(chart.figure.data[1].y) == list(chart.figure.frames[2].data[1].y)


def _shown(values: np.ndarray) -> np.ndarray:
    return np.array([value if value > 1e-9 * values.max() else None for value in values], dtype=float)


def test_frames_have_the_same_axes_in_all_charts(write_run, diagnose) -> None:
    folders = [write_run(str(beta), beta=beta, change=diagnose(rank=9 + 40 * (beta or 0))) for beta in (None, 0.1)]
    groups = groups_of(*folders)
    assert len({chart.figure.layout.yaxis.range for chart in charts.spectra_by_round(groups)}) == 1
    assert len({chart.figure.layout.yaxis.range for chart in charts.attribution(groups)}) == 1


def test_a_run_of_many_rounds_is_thinned_with_its_first_and_last_round_kept(tmp_path: Path) -> None:
    (tmp_path / "spectra").mkdir()
    for round_ in range(100):
        ones = np.ones(4)
        np.savez(tmp_path / "spectra" / f"round-{round_:04d}.npz", global_covariance=ones, global_correlation=ones)
    rounds = [spectra.round for spectra in by_round(tmp_path, range(100))]
    assert len(rounds) == MAX_ROUNDS
    assert (rounds[0], rounds[-1]) == (0, 99)
    assert np.ptp(np.diff(rounds)) <= 1
    assert by_round(tmp_path, [500]) == ()


def test_wide_features_keep_their_first_eigenvalues_and_their_last() -> None:
    values = np.geomspace(1, 1e-6, 1280)
    ranks, heights = thinned(values)
    assert ranks[:MAX_POINTS] == list(range(1, MAX_POINTS + 1))
    assert ranks[-1] == 1280
    assert len(ranks) == 2 * MAX_POINTS
    np.testing.assert_allclose(heights, values[np.array(ranks) - 1], rtol=1e-3)


def test_a_run_without_a_diagnosis_reads_no_further_spectra(write_run) -> None:
    assert read_run(write_run("a")).history == ()


def test_spectra_that_were_deleted_leave_the_rest_of_the_diagnosis(page, write_run, diagnose) -> None:
    folder = write_run("a", change=diagnose())
    for file in (folder / "spectra").iterdir():
        file.unlink()
    text = page(folder)
    assert "evolution-0" not in text
    assert "attribution-0" in text


def test_local_models_are_not_drawn_twice(write_run, diagnose, tmp_path: Path) -> None:
    plain, diagnosed = write_run("a"), write_run("b", beta=0.1, change=diagnose())
    assert "local-0" in drawn(plain, tmp_path)
    assert "evolution-0" in drawn(diagnosed, tmp_path)
    assert "local-0" not in drawn(diagnosed, tmp_path)


def test_ranks_are_the_median_and_the_range_of_clients_averaged_over_seeds(write_run, diagnose) -> None:
    folders = [write_run(str(seed), seed=seed, change=diagnose(rank=4.0 + 2 * seed)) for seed in range(2)]
    (chart,) = charts.attribution(groups_of(*folders))
    band, *_ = chart.figure.data
    lines = {trace.name: trace for trace in chart.figure.data if trace.name}
    # Local ranks of a seed: rank + 0, 0.2, .. 1.8, + 0.1 a round; ranks are 4 and 6.
    np.testing.assert_allclose(lines["local"].y, [5 + 0.9 + 0.3, 5 + 0.9 + 0.6])
    np.testing.assert_allclose(band.y, [5.3, 5.6, 7.4, 7.1])
    assert list(lines["averaged"].y) == [5, 5]
    assert list(lines["side by side"].y) == [15, 15]
    assert list(lines["mean"].y) == [4.5, 4.5]
    assert list(lines["local"].x) == [3, 6]


def test_the_rank_that_is_enough_is_marked_on_the_covariance_alone(write_run, diagnose) -> None:
    (chart,) = charts.attribution(groups_of(write_run("a", change=diagnose())))
    covariance, correlation = chart.figure.frames
    assert [frame.name for frame in chart.figure.frames] == ["covariance", "correlation"]
    assert covariance.layout.shapes[0].y0 == pytest.approx(0.7 * 9)
    assert (covariance.layout.shapes[0].visible, correlation.layout.shapes[0].visible) == (True, False)
    assert list(correlation.data[2].y) == [24, 24]


def test_the_words_of_a_chart_of_ranks_are_its_last_numbers(write_run, diagnose) -> None:
    (chart,) = charts.attribution(groups_of(write_run("a", change=diagnose(rank=4.0))))
    assert chart.caption == (
        "Covariance, round 6: local models 5.5 (4.6 to 6.4), averaged model 4.0, side by side 12.0, "
        "mean of features 3.6."
    )


def test_a_point_is_a_client_at_its_number_of_classes_and_its_rank(write_run, diagnose) -> None:
    folders = [write_run(str(seed), seed=seed, change=diagnose()) for seed in range(2)]
    (group,) = groups_of(*folders)
    (cloud,) = charts.classes_by_rank([group]).figure.data
    assert len(cloud.x) == 20
    assert cloud.legendgroup == group.label
    row = row_of(findings(group)[1], 3)
    at = cloud.customdata.index(f"client 3 (seed 1), {row.num_examples:.0f} examples")
    assert (cloud.x[at], cloud.y[at]) == pytest.approx((row.num_classes, row.rank), abs=0.01)


def test_without_a_recorded_partition_there_is_no_chart_of_classes(page, write_run, diagnose) -> None:
    folder = write_run("a", change=diagnose())
    description = json.loads((folder / "run.json").read_text())
    del description["partition"]
    (folder / "run.json").write_text(json.dumps(description))
    text = page(folder)
    assert "classes-rank" not in text
    assert "Clients by contribution" in text


def test_every_figure_says_how_to_read_it_and_has_named_axes(write_run, diagnose) -> None:
    groups = groups_of(write_run("a", change=diagnose()))
    for chart in (*charts.spectra_by_round(groups), *charts.attribution(groups), charts.classes_by_rank(groups)):
        assert chart.caption
        assert chart.figure.layout.xaxis.title.text
        assert chart.figure.layout.yaxis.title.text


def test_a_slider_over_one_round_and_a_switch_of_one_kind_are_left_out(page, write_run, diagnose) -> None:
    ranks = {"local": [3.0], "concatenated": 5.0, "mean": 3.0, "averaged": 3.0}
    change = diagnose(also={"attribution": {"covariance": ranks}})
    folder = write_run("a", change=change, finished=3)
    (folder / "spectra" / "round-0000.npz").unlink()
    text = page(folder)
    assert "attribution-0" in text
    assert "evolution-0" in text
    assert "<input" not in text
    assert "data-frame=" not in text


def test_the_expected_rank_is_the_verdicts(write_run) -> None:
    evidence = {"num_features": 64, "num_classes": 5}
    assert expected_rank({"evidence": evidence}) == 4
    assert expected_rank({"evidence": evidence | {"reference_rank": 12.5}}) == 12.5
    assert expected_rank({"evidence": {"num_features": 64}}) is None
    assert expected_rank({}) is None


def test_rounds_with_a_rank_that_is_not_a_number_are_left_out(write_run, diagnose) -> None:
    ranks = {"local": [None, 3.0], "concatenated": None, "mean": "x", "averaged": 2.0}
    run = read_run(write_run("a", change=diagnose(also={"attribution": {"covariance": ranks}})))
    assert rank_series(run, of="covariance", part="local") == [(3, (3.0,)), (6, (3.0,))]
    assert rank_series(run, of="covariance", part="concatenated") == []
    assert rank_series(run, of="covariance", part="mean") == []
    assert rank_series(run, of="correlation", part="averaged") == []
