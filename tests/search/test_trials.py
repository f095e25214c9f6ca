"""Searches on a tiny federation: what is proposed, cut short, repeated, and gone on with after kill -9."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from decollapse import cli
from decollapse.report.view import read_run
from decollapse.runs import RunFolder, RunFolderError, continue_run
from decollapse.search import Search, best_trials, run_trials, varied
from decollapse.search import as_json as trials_as_json
from decollapse.search.storage import STARTUP

pytest.importorskip("optuna")

TINY = (
    "data=digits", "data.train_size=200", "data.test_size=100", "model=mlp", "engine=serial", "num_clients=3",
    "evaluation.local_every=0",
)  # fmt: skip
BETA = "client.objective.feddecorr.beta"


def search(out: Path, *vary: str, rounds: int = 1, **settings: object) -> Search:
    space = tuple(varied(text) for text in vary or (f"{BETA}=0.001..10:log", "client.optimizer.lr=0.01,0.1"))
    return Search(None, (*TINY, f"rounds={rounds}"), space, out, **settings)  # type: ignore[arg-type]


def counted(calls: list[Path]) -> Callable[[RunFolder], object]:
    def run(folder: RunFolder):
        calls.append(folder.path)
        for record, _ in continue_run(folder):
            yield record

    return run


def test_every_trial_is_a_run_folder_for_each_seed_and_counts_by_their_mean(tmp_path: Path) -> None:
    tried = run_trials(search(tmp_path, seeds=2, metric="effective_rank"), 3)
    assert [trial.outcome for trial in tried] == ["finished"] * 3
    for trial in tried:
        runs = [read_run(tmp_path / f"trial-{trial.number:04d}" / f"seed={seed}") for seed in (0, 1)]
        assert [run.seed for run in runs] == [0, 1]
        ranks = [run.series("spectrum", "covariance", "effective_rank")[-1][1] for run in runs]
        assert trial.found is not None
        assert trial.found.mean == pytest.approx(sum(ranks) / 2)
        objective = runs[0].recipe["client"]["objective"]
        assert objective["feddecorr"]["beta"] == float(trial.settings[BETA])


def test_a_search_is_a_function_of_its_seed_and_goes_on_where_it_was(tmp_path: Path) -> None:
    calls: list[Path] = []
    whole = run_trials(search(tmp_path / "whole"), 4)
    run_trials(search(tmp_path / "parts"), 2)
    assert run_trials(search(tmp_path / "parts"), 4, run=counted(calls)) == whole  # type: ignore[arg-type]
    assert [path.parent.name for path in calls] == ["trial-0002", "trial-0003"]
    assert len({str(trial.settings) for trial in whole}) == 4


def test_a_trial_that_was_proposed_before_is_not_run_again(tmp_path: Path) -> None:
    calls: list[Path] = []
    said: list[str] = []
    tried = run_trials(search(tmp_path, "client.epochs=1,2"), 5, run=counted(calls), tell=said.append)  # type: ignore[arg-type]
    assert len(calls) == 2
    same = {str(trial.settings): trial.found for trial in tried}
    assert all(trial.found == same[str(trial.settings)] for trial in tried)
    table = best_trials(search(tmp_path, "client.epochs=1,2"), tried)
    assert len(table.rows) == 2


def test_hopeless_trials_are_cut_short_and_their_folders_left_as_unfinished_runs(tmp_path: Path) -> None:
    said: list[str] = []
    question = search(tmp_path, "client.optimizer.lr=1e-9..1:log", rounds=4)
    tried = run_trials(question, 12, tell=said.append)
    assert [trial.outcome for trial in tried[:STARTUP]] == ["finished"] * STARTUP
    pruned = [trial for trial in tried if trial.outcome == "pruned"]
    assert pruned
    best = best_trials(question, tried).rows[0][0].text
    for trial in pruned:
        assert trial.found is None
        assert 2 <= trial.rounds < 4
        assert float(trial.settings["client.optimizer.lr"]) < float(tried[int(best)].settings["client.optimizer.lr"])
        assert read_run(tmp_path / f"trial-{trial.number:04d}" / "seed=0").last_round == trial.rounds
        assert f"trial {trial.number}: pruned after round {trial.rounds} at accuracy (%)" in " ".join(said)


def test_trials_are_judged_by_rounds_of_training(tmp_path: Path) -> None:
    run_trials(search(tmp_path, rounds=3, seeds=2), 1)
    with sqlite3.connect(tmp_path / "study.db") as database:
        judged = database.execute("select step, intermediate_value from trial_intermediate_values").fetchall()
    series = read_run(tmp_path / "trial-0000" / "seed=0").series("evaluation", "accuracy")
    assert judged == [(at, 100 * value) for at, value in series if at > 0]


def test_nothing_is_cut_short_where_that_is_not_wanted(tmp_path: Path) -> None:
    tried = run_trials(search(tmp_path, "client.optimizer.lr=1e-9..0.5:log", rounds=3, prune=False), 8)
    assert {trial.outcome for trial in tried} == {"finished"}


def test_settings_that_do_not_fit_together_fail_and_the_search_goes_on(tmp_path: Path) -> None:
    said: list[str] = []
    tried = run_trials(search(tmp_path, "num_clients=8,4", "cohort_size=3..8"), 8, tell=said.append)
    failed = [trial for trial in tried if trial.outcome == "failed"]
    assert failed
    assert all(int(trial.settings["cohort_size"]) > int(trial.settings["num_clients"]) for trial in failed)
    assert len(failed) < len(tried)
    assert f"trial {failed[0].number}: failed: recipe: cohort_size is from 1 to num_clients = 4" in " ".join(said)


def test_mistakes_show_before_anything_is_trained_or_made(tmp_path: Path) -> None:
    out = tmp_path / "search"
    for vary, said in (
        ("client.epoch=1..3", "client.epoch is no setting of client"),
        ("partition.alpha=0..1", "alpha"),
        ("cohort_size=2..5", "cohort_size is from 1 to num_clients = 3, got 5"),
        ("seed=0..5", "seed by --seeds"),
    ):
        with pytest.raises(ValueError, match=said):
            run_trials(search(out, vary), 2)
    with pytest.raises(ValueError, match="at least one setting to vary"):
        Search(None, TINY, (), out)
    with pytest.raises(ValueError, match="varied once"):
        search(out, f"{BETA}=0..1", f"{BETA}=1..2")
    with pytest.raises(ValueError, match="--seeds is at least 1, got 0"):
        search(out, seeds=0)
    with pytest.raises(ValueError, match="--trials is at least 1, got 0"):
        run_trials(search(out), 0)
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metric": "effective_rank"}, "metric is accuracy there and effective_rank here"),
        ({"seeds": 2}, "seeds is 1 there and 2 here"),
        ({"rounds": 2}, "recipe.rounds is 1 there and 2 here"),
    ],
)
def test_a_folder_with_another_search_is_refused(tmp_path: Path, change: dict[str, object], said: str) -> None:
    run_trials(search(tmp_path), 1)
    with pytest.raises(RunFolderError, match=f"holds another search .*{said}.*choose another --out"):
        run_trials(search(tmp_path, **change), 2)  # type: ignore[arg-type]


def test_a_file_that_is_no_study_is_named(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("no database at all, but long enough to be taken for one" * 40)
    with pytest.raises(RunFolderError, match=r"study.db is no study or damaged .*; restore it or choose another --out"):
        run_trials(search(tmp_path), 1)


def test_the_folder_of_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(RunFolderError, match="holds a single run"):
        run_trials(search(tmp_path), 1)


def test_the_command_line_prints_the_best_trials_and_how_to_run_the_best(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = [word for setting in (*TINY, "rounds=1") for word in ("-s", setting)]
    arguments += ["--vary", f"{BETA}=0.01..1:log", "--vary", "model.norm=none,batch"]
    arguments += ["--trials", "3", "--out", str(tmp_path / "a study")]
    assert cli.run_command(["search", *arguments]) == 0
    printed, progress = capsys.readouterr()
    lines = printed.splitlines()
    assert lines[0].split() == ["trial", "beta", "norm", "accuracy", "(%)"]
    assert len(lines) == 8  # a heading, a rule, three trials, how many, the command, an empty line
    assert lines[5] == "3 trials: 3 finished."
    assert lines[6].startswith("decollapse run -s data=digits")
    assert progress.count("round 1/1") == 3
    assert cli.run_command(["search", *arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["best"]["command"] == lines[6]
    means = [trial["found"]["mean"] for trial in found["trials"]]
    assert means[found["best"]["trial"]] == max(means)


def test_less_is_better_for_a_loss(tmp_path: Path) -> None:
    question = search(tmp_path, metric="loss")
    tried = run_trials(question, 3)
    losses = [trial.found.mean for trial in tried if trial.found]
    best = trials_as_json(question, tried)["best"]
    assert losses[best["trial"]] == min(losses)


def test_a_search_that_was_killed_goes_on_in_the_middle_of_its_trial(tmp_path: Path) -> None:
    rounds, trials = 15, 3
    whole = run_trials(search(tmp_path / "whole", rounds=rounds), trials)
    cut = tmp_path / "cut"
    arguments = [word for setting in (*TINY, f"rounds={rounds}") for word in ("-s", setting)]
    arguments += ["--vary", f"{BETA}=0.001..10:log", "--vary", "client.optimizer.lr=0.01,0.1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "decollapse.cli", "search", *arguments, "--trials", str(trials), "--out", str(cut)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    records = cut / "trial-0001" / "seed=0" / "records.jsonl"
    deadline = time.monotonic() + 120
    while not (records.exists() and len(records.read_text().splitlines()) >= 4):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    done = RunFolder.open(records.parent).rounds_done
    assert done is not None
    assert 2 <= done < rounds
    began = json.loads(records.read_text().splitlines()[2])
    assert run_trials(search(cut, rounds=rounds), trials) == whole
    assert json.loads(records.read_text().splitlines()[2]) == began  # its times among it: it was not run again
    with sqlite3.connect(cut / "study.db") as database:
        ((number,),) = database.execute("select count(*) from trials")
    assert number == trials
