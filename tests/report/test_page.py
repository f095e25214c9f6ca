from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path

import pytest

from decollapse.report import write_report

NASTY = '</script><img src=x onerror="alert(1)">&<b>${title}'


def figures(html: str) -> dict:
    return json.loads(re.search(r'id="charts">(.*?)</script>', html, re.DOTALL)[1])


def test_the_page_is_one_file_with_all_charts_and_tables(two_groups, tmp_path: Path) -> None:
    out = tmp_path / "new" / "report.html"
    assert write_report(two_groups, out) == out
    html = out.read_text(encoding="utf-8")
    assert list(figures(html)) == [
        "accuracy", "loss", "rank-covariance", "rank-correlation", "spectrum-covariance", "spectrum-correlation",
        "dead", "rank-local", "local-0", "local-1", "labels-0", "per-class",
    ]  # fmt: skip
    for key in figures(html):
        assert f'data-chart="{key}"' in html
    for part in ("comparison", "curves", "local", "labels", "clients", "settings", "time", "reproduce"):
        assert f'<section id="{part}">' in html
    assert 'id="rejected"' not in html
    assert list(out.parent.iterdir()) == [out]


def test_nothing_on_the_page_is_fetched_and_fetching_is_forbidden(two_groups, tmp_path: Path) -> None:
    html = write_report(two_groups, tmp_path / "r.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in html
    assert not re.search(r'(?:src|href)="(?!data:)', html)
    assert "@import" not in html
    assert "url(" not in html


def test_plotly_travels_compressed_and_whole_with_its_licence(two_groups, tmp_path: Path) -> None:
    html = write_report(two_groups, tmp_path / "r.html").read_text(encoding="utf-8")
    packed = re.search(r'id="plotly">(.*?)</script>', html, re.DOTALL)[1]
    assert gzip.decompress(base64.b64decode(packed)).startswith(b"/**\n* plotly.js v")
    assert "Licensed under the MIT license" in html
    assert len(html) < 2.5e6


def test_the_same_runs_give_the_same_bytes(two_groups, tmp_path: Path) -> None:
    first, second = (write_report(two_groups, tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert first == second


def test_text_from_runs_stays_text(write_run, tmp_path: Path) -> None:
    recipe = {"rounds": 6, "seed": 0, "data": {"name": NASTY}, "model": {"name": NASTY}, NASTY: NASTY}

    def change(record):
        return {**record, "rejected": [{"client": NASTY, "reason": NASTY}]}

    folder = write_run("nasty", recipe=recipe, change=change, classes=[NASTY + str(index) for index in range(10)])
    description = json.loads((folder / "run.json").read_text())
    for table in ("versions", "machine"):
        description[table] = {NASTY: NASTY}
    (folder / "run.json").write_text(json.dumps({**description, "name": NASTY, "started": NASTY}))
    other = write_run("other", recipe={**recipe, "model": {"name": "mlp"}})
    html = write_report([folder, other], tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<img" not in html
    assert html.count("</script>") == html.count("<script")
    assert "&lt;/script&gt;&lt;img src=x onerror=&quot;alert(1)&quot;&gt;&amp;&lt;b&gt;${title}" in html
    assert "<b>" not in json.dumps(figures(html)["labels-0"]["data"])


def test_a_rejected_update_is_listed_with_its_reason(write_run, tmp_path: Path) -> None:
    def change(record):
        return {**record, "rejected": [{"client": 3, "reason": "NaN in head.weight"}] if record["round"] == 2 else []}

    html = write_report([write_run("a", change=change)], tmp_path / "r.html").read_text(encoding="utf-8")
    assert '<section id="rejected">' in html
    assert "<td>2</td><td>3</td><td>NaN in head.weight</td>" in html


def test_federated_spectra_are_listed_with_their_cost_and_what_a_sketch_misses(write_run, tmp_path: Path) -> None:
    def change(record):
        kinds = {"covariance": {"total": 3.0, "effective_rank": 7.25}, "correlation": {"effective_rank": 9.0}}
        found = {
            "spectrum": {"num_examples": 200, **kinds},
            "covariance_missing": 1.0,
            "num_clients": 10,
            "bytes_per_client": 18440,
            "seconds": 0.5,
        }
        return {**record, "federated": found if record["round"] == 2 else None}

    html = write_report([write_run("a", change=change)], tmp_path / "r.html").read_text(encoding="utf-8")
    cells = ["2", "10", "200", "7.2", "9.0", "25 %", "18.4", "0.50"]
    assert "".join(f"<td>{cell}</td>" for cell in cells) in html
    assert 'id="federated"' not in write_report([write_run("b")], tmp_path / "r.html").read_text(encoding="utf-8")


def test_accuracy_by_a_column_of_the_data_is_shown_at_each_of_its_values(write_run, tmp_path: Path) -> None:
    def change(record):
        by_column = {"site": {"Oslo & co": 0.125 * record["round"], "Turin": None}}
        return {**record, "evaluation": {**record["evaluation"], "by_column": by_column}}

    runs = [write_run(f"{seed}", seed=seed, change=change) for seed in (0, 1)]
    for path in (run / "run.json" for run in runs):
        description = json.loads(path.read_text()) | {"test_groups": {"site": {"Oslo & co": 30, "Turin": 0}}}
        path.write_text(json.dumps(description))
    html = write_report(runs, tmp_path / "r.html").read_text(encoding="utf-8")
    assert '<th scope="col">Oslo &amp; co (30)</th><th scope="col">Turin (0)</th>' in html
    assert "<td>75.0 ± 0.0</td><td>\N{EN DASH}</td>" in html
    assert 'id="parts"' not in write_report([write_run("b")], tmp_path / "r.html").read_text(encoding="utf-8")


def test_an_unfinished_run_and_a_run_without_records_are_noted(write_run, tmp_path: Path) -> None:
    folders = [write_run("cut", seed=0, finished=2), write_run("new", seed=1, finished=None)]
    html = write_report(folders, tmp_path / "r.html").read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")
    assert "cut is unfinished: 2 of 6 rounds." in html
    assert "new has no finished round yet; it is in no number and no chart." in html


def test_a_run_without_records_alone_makes_a_page(write_run, tmp_path: Path) -> None:
    html = write_report([write_run("new", finished=None)], tmp_path / "r.html").read_text(encoding="utf-8")
    assert "No run has been evaluated yet." in html
    assert list(figures(html)) == ["labels-0"]


def test_settings_that_differ_come_first_and_are_marked(two_groups, tmp_path: Path) -> None:
    html = write_report(two_groups, tmp_path / "r.html").read_text(encoding="utf-8")
    rows = re.findall(r'<tr(.*?)><th scope="row">([a-z_.]+)</th>', html[html.index('id="settings"') :])
    marked = [name for attributes, name in rows if "differs" in attributes]
    term = "client.objective.feddecorr"
    assert sorted(marked) == [f"{term}.{name}" for name in ("beta", "eps", "layers", "matrix", "normalization")]
    assert [name for _, name in rows[:5]] == marked


def test_a_folder_given_twice_counts_once(write_run, tmp_path: Path) -> None:
    folder = write_run("a")
    once = write_report([folder], tmp_path / "a.html").read_text(encoding="utf-8")
    twice = write_report([folder, folder / ".." / "a"], tmp_path / "b.html").read_text(encoding="utf-8")
    assert once == twice


def test_folders_keep_the_order_they_are_given_in(write_run, tmp_path: Path) -> None:
    with_penalty, without = write_run("b", beta=0.1), write_run("a")
    html = write_report([with_penalty, without], tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<title>FedAvg + FedDecorr 0.1 and FedAvg on fashion-mnist-small" in html


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one run folder"):
        write_report([], tmp_path / "r.html")


def test_an_error_leaves_the_old_report_in_place(tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    out.write_text("old")
    with pytest.raises(ValueError, match="is not a run folder"):
        write_report([tmp_path], out)
    assert out.read_text() == "old"


def test_a_report_that_cannot_be_finished_leaves_the_old_one_and_no_litter(
    write_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    folder, out = write_run("a"), tmp_path / "pages" / "r.html"
    out.parent.mkdir()
    out.write_text("old")
    monkeypatch.setattr(Path, "replace", disk_full)
    with pytest.raises(OSError, match="No space left"):
        write_report([folder], out)
    assert out.read_text() == "old"
    assert list(out.parent.iterdir()) == [out]


def test_the_comparison_shows_what_is_gained_seed_by_seed(two_groups, tmp_path: Path) -> None:
    html = write_report(two_groups, tmp_path / "report.html").read_text(encoding="utf-8")
    comparison = html.partition('<section id="comparison">')[2].partition("</section>")[0]
    assert comparison.count("Δ accuracy (points)") == comparison.count("Δ effective rank") == 1
    assert comparison.count("<td>3 of 3</td>") == 2
    assert comparison.count("Differences between runs of the same seed") == 1


def test_settings_without_a_baseline_have_no_table_of_pairs(write_run, tmp_path: Path) -> None:
    html = write_report([write_run("a")], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Δ accuracy" not in html
