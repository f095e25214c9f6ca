"""Real processes, really killed: nothing computed is lost, and the bits are those of a run that was left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from decollapse import runs
from decollapse.checkpoint import CheckpointError
from decollapse.config import load_recipe
from decollapse.report.view import read_run
from decollapse.runs import RunFolder, RunFolderError, continue_run, find_runs

ROUNDS = 40  # enough for a signal to arrive before the last
SETTINGS = [
    "data.name=digits",
    "data.train_size=400",
    "model.name=mlp",
    "model.norm=batch",
    "client.epochs=2",
    "client.objective.feddecorr.beta=0.1",
    "server.momentum=0.5",
    "evaluation.local_every=2",
    "evaluation.probe_size=50",
    "engine=serial",
    "cohort_size=4",
]


# Started from a background job, a process ignores Ctrl-C, and so would its children.
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from decollapse.cli import main
if __name__ == "__main__":
    main()
"""


def create(path: Path, rounds: int = 4, *overrides: str) -> RunFolder:
    return RunFolder.create(path, load_recipe(None, [*SETTINGS, f"rounds={rounds}", *overrides]))


def finish(folder: RunFolder) -> None:
    for _ in continue_run(RunFolder.open(folder.path)):
        pass


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    state = RunFolder.open(folder.path).load()
    assert state is not None
    return state.model.params | state.model.buffers | {f"server {k}": leaf for k, leaf in state.optimizer.items()}


def untimed(folder: RunFolder) -> list[dict[str, object]]:
    """The records without their wall-clock times."""
    records = [json.loads(line) for line in (folder.path / "records.jsonl").read_text().splitlines()]
    for record in records:
        del record["seconds"]
        for client in record["clients"]:
            del client["seconds"], client["parts"]
    return records


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that nothing happened to."""
    folder = create(tmp_path_factory.mktemp("whole") / "run", ROUNDS)
    finish(folder)
    return folder


def assert_same_run(a: RunFolder, b: RunFolder) -> None:
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert untimed(a) == untimed(b)


def test_a_run_leaves_a_folder_that_is_complete_by_itself(whole: RunFolder) -> None:
    description = json.loads((whole.path / "run.json").read_text())
    assert {"recipe", "versions", "machine", "partition", "model", "fingerprint", "started"} <= description.keys()
    assert np.sum(description["partition"]["class_counts"]) == 400
    records = untimed(whole)
    assert [record["round"] for record in records] == list(range(ROUNDS + 1))
    assert records[-1]["clients"][0]["spectrum"]["num_features"] == 128  # type: ignore[index]
    spectra = np.load(whole.path / "spectra" / "round-0040.npz")
    assert spectra["global_covariance"].shape == (128,)
    assert spectra["local_covariance"].shape == (4, 128)
    view = read_run(whole.path)
    assert view.finished


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_run_that_was_stopped_in_a_round_goes_on_with_the_same_bits(
    whole: RunFolder, tmp_path: Path, how: signal.Signals
) -> None:
    folder = create(tmp_path / "run", ROUNDS)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "resume", str(folder.path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    records = folder.path / "records.jsonl"
    deadline = time.monotonic() + 120
    while not (records.exists() and len(records.read_text().splitlines()) >= 3):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    if how == signal.SIGINT:
        assert "decollapse resume" in said
    assert RunFolder.open(folder.path).load().round < ROUNDS  # type: ignore[union-attr]
    finish(folder)
    assert_same_run(folder, whole)


def test_a_longer_run_begins_with_the_shorter_one(whole: RunFolder, tmp_path: Path) -> None:
    folder = create(tmp_path / "run", 5)
    finish(folder)
    text = (folder.path / "run.json").read_text()
    (folder.path / "run.json").write_text(text.replace('"rounds": 5', f'"rounds": {ROUNDS}'))
    finish(folder)
    ours, theirs = weights(folder), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_records_beyond_the_checkpoint_are_written_again(whole: RunFolder, tmp_path: Path) -> None:
    folder = create(tmp_path / "run", ROUNDS)
    for record, _ in continue_run(folder):
        if record.round == 3:
            break
    with (folder.path / "records.jsonl").open("a") as file:
        file.write('{"round": 4, "clients": []}\n{"round": 5, "cli')
    finish(folder)
    assert_same_run(folder, whole)


def test_a_full_disk_loses_no_finished_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = create(tmp_path / "run", 4)
    save = runs.save_checkpoint
    monkeypatch.setattr(runs, "save_checkpoint", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(RunFolderError, match=r"No space left.*make room, then `decollapse resume"):
        next(continue_run(folder))
    monkeypatch.setattr(runs, "save_checkpoint", save)
    finish(folder)
    assert [record["round"] for record in untimed(folder)] == [0, 1, 2, 3, 4]


def test_a_finished_run_is_left_alone(whole: RunFolder) -> None:
    before = (whole.path / "records.jsonl").read_text()
    finish(whole)
    assert (whole.path / "records.jsonl").read_text() == before


def test_a_recipe_that_was_changed_does_not_fit_the_checkpoint(tmp_path: Path) -> None:
    folder = create(tmp_path / "run", 1)
    finish(folder)
    text = (folder.path / "run.json").read_text()
    (folder.path / "run.json").write_text(
        text.replace('"epochs": 2', '"epochs": 3').replace('"rounds": 1', '"rounds": 2')
    )
    with pytest.raises(CheckpointError, match="another recipe"):
        finish(folder)


def test_other_data_than_a_run_began_with_are_refused(tmp_path: Path) -> None:
    folder = create(tmp_path / "run", 1)
    finish(folder)
    text = (folder.path / "run.json").read_text()
    fingerprint = json.loads(text)["fingerprint"]
    (folder.path / "run.json").write_text(text.replace(fingerprint, "0" * 32).replace('"rounds": 1', '"rounds": 2'))
    with pytest.raises(RunFolderError, match="not those"):
        finish(folder)


def test_two_processes_do_not_write_to_one_folder(tmp_path: Path) -> None:
    folder = create(tmp_path / "run", 2)
    running = continue_run(folder)
    next(running)
    with pytest.raises(RunFolderError, match="another process is running"):
        next(continue_run(folder))
    running.close()


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="holds no run"):
        find_runs([tmp_path])
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(RunFolderError, match="damaged"):
        find_runs([tmp_path])


@pytest.mark.slow
def test_ctrl_c_with_workers_ends_every_process_and_loses_no_round(whole: RunFolder, tmp_path: Path) -> None:
    folder = create(tmp_path / "run", ROUNDS, "engine=process", "engine.workers=2")
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "resume", str(folder.path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (folder.path / "checkpoint.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    deadline = time.monotonic() + 30
    while _group_exists(process.pid):  # multiprocessing's own resource tracker takes a moment
        assert time.monotonic() < deadline
        time.sleep(0.1)
    finish(folder)
    ours, theirs = weights(folder), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
