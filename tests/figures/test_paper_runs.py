"""The runs of the paper's figures, and the command that trains them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_study import STUDY, TINY, Drawn

from decollapse import cli
from decollapse.figures.study import RECIPE, paper_runs
from decollapse.report.view import read_run
from decollapse.runs import RunFolder, continue_run


def test_each_seed_has_four_skews_with_and_without_feddecorr(tmp_path: Path) -> None:
    folders = paper_runs(tmp_path, data="digits", overrides=TINY, seeds=2, beta=0.3)
    assert [folder.experiment.seed for folder in folders] == [0] * 8 + [1] * 8
    alphas = [getattr(folder.experiment.partition, "alpha", None) for folder in folders[:8]]
    assert alphas == [0.01, 0.01, 0.05, 0.05, 0.25, 0.25, None, None]
    for plain, repaired in zip(folders[::2], folders[1::2], strict=True):
        assert plain.path.name == repaired.path.name
        assert repaired.path.parent.name == f"{plain.path.parent.name},feddecorr"
        (added,) = set(repaired.experiment.client.objective) - set(plain.experiment.client.objective)
        assert (added.beta, added.normalization) == (0.3, "release")  # type: ignore[attr-defined]  # it is FedDecorr


def test_every_run_measures_its_local_models_in_the_last_round(drawn: Drawn) -> None:
    views = [read_run(path.parent) for path in drawn.folder.rglob("run.json")]
    assert len(views) == 16
    assert all(view.local_spectra is not None and view.local_spectra.round == 2 for view in views)
    assert "left out" not in drawn.stderr


def test_the_recipe_measures_local_models_too() -> None:
    assert "local_every = 5" in RECIPE.read_text()


def test_a_study_that_was_stopped_goes_on_and_ends_with_the_same_numbers(
    drawn: Drawn, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "figures"
    shutil.copytree(drawn.folder / "runs", out / "runs")
    stopped, missing = out / "runs" / "iid" / "seed=1", out / "runs" / "alpha=0.25,feddecorr" / "seed=0"
    shutil.rmtree(missing)
    recipe = (stopped / "run.json").read_text()
    shutil.rmtree(stopped)
    stopped.mkdir()
    (stopped / "run.json").write_text(recipe)
    for record, _ in continue_run(RunFolder.open(stopped)):
        if record.round == 1:
            break
    assert cli.run_command([*STUDY, "--out", str(out)]) == 0
    progress = capsys.readouterr().err
    assert progress.count("finished before") == 14
    assert progress.count("going on after round 1") == 1
    assert progress.count("begins") == 1
    assert (out / "figures.json").read_text() == (drawn.folder / "figures.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["figures"], "there is no data/cifar10/train.npz: write train.npz and test.npz as docs/figures.md shows"),
        (["figures", "--data", "npz:nowhere"], "nowhere/train.npz"),
        (["figures", "--seeds", "0"], "--seeds of at least 1"),
        (["figures", "--beta", "0"], "--beta above 0"),
        (["figures", "--set", "partition.alpha=0.5"], "the figures vary partition themselves"),
        (["figures", "--set", "client.objective.feddecorr.beta=1"], "--beta"),
        (["figures", "--set", "seed=3"], "--seeds"),
        (["figures", "nowhere"], "there is no folder nowhere"),
        (["figures", "nowhere", "--set", "rounds=3"], "--set is for runs that are trained here"),
        (["figures", "nowhere", "--seeds", "3"], "--seeds is for runs that are trained here"),
    ],
)
def test_a_mistake_is_one_sentence(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run_command(arguments) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_help_has_an_example_and_says_where_the_data_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["figures", "--help"]) == 0
    said = capsys.readouterr().out
    assert "Example: decollapse figures" in said
    assert "npz:data/cifar10" in said
