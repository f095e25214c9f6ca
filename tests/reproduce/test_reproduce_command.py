"""`decollapse reproduce` from the first run to the table, stopped and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_table import TINY

from decollapse import cli

METHODS = ("--methods", "FedAvg,FedAvg + FedDecorr 0.1")
SETTINGS = tuple(word for setting in TINY for word in ("--set", setting))


@pytest.fixture
def command(tiny_data: Path, tmp_path: Path) -> list[str]:
    data = ["--data", f"npz:{tiny_data}", "--out", str(tmp_path / "out")]
    return ["reproduce", "decorrelation", "--seeds", "2", *METHODS, *SETTINGS, *data]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.run_command(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_table_is_made_gone_on_with_and_kept(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, printed, progress = run(capsys, *command, "--dry-run")
    assert code == 0
    assert "runs       4 of 2 rounds" in printed
    assert "2 rounds instead of 100" in printed
    assert "estimate " in printed
    assert not out.exists()

    code, printed, progress = run(capsys, *command, "--jobs", "2")
    assert code == 0
    assert "seed 1: round 2/2  accuracy" in progress
    assert "estimated " in progress
    assert "\x1b" not in progress
    assert "FedAvg + FedDecorr" in printed
    for name in ("table.md", "table.csv", "table.json", "table.svg", "runs.jsonl"):
        assert str(out / name) in printed
        assert (out / name).stat().st_size > 0
    table = json.loads((out / "table.json").read_text())
    assert [cell["ours"]["num"] for cell in table["cells"]] == [2] * 2
    (gain,) = table["cells"][1]["gains"]
    assert gain["against"] == "FedAvg"
    assert gain["ties"] + gain["wins"] <= 2
    assert "2 rounds instead of 100" in table["departures"]
    lines = [json.loads(line) for line in (out / "runs.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    assert {line["seed"] for line in lines} == {0, 1}
    page = (out / "table.md").read_text()
    assert "$ decollapse reproduce decorrelation --dataset cifar10 --scale small --seeds 2" in page
    assert "(table.svg)" in page
    (call,) = table["calls"]
    assert (call["num_runs"], call["at_once"]) == (4, 2)
    assert 0 < call["took"] < 600
    assert "4 runs, 2 at a time: estimated " in page

    kept = (out / "table.csv").read_text()
    (out / "table.csv").unlink()
    code, _, progress = run(capsys, *command)
    assert code == 0
    assert "round" not in progress.partition("done       4 of 4 runs")[2]
    assert (out / "table.csv").read_text() == kept
    assert json.loads((out / "table.json").read_text())["calls"] == [call]

    (out / "table.svg").unlink()
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "matplotlib", None)
        code, _, progress = run(capsys, *command)
    assert code == 0
    assert "pip install 'decollapse[figures]'" in progress
    assert "(table.svg)" not in (out / "table.md").read_text()

    other = tmp_path / "other"
    elsewhere = [str(other) if word == str(out) else word for word in command]
    code, _, progress = run(capsys, *elsewhere, "--take-from", str(out))
    assert code == 0
    assert "done       4 of 4 runs" in progress
    assert "round" not in progress.partition("done       4 of 4 runs")[2]

    damaged = next(out.glob("runs/*/fedavg/seed=1/checkpoint.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    code, printed, progress = run(capsys, *command)
    assert code == 1
    assert ", FedAvg, seed 1: " in progress.partition("failed: ")[2]


def test_a_folder_of_another_grid_is_left_alone(
    capsys: pytest.CaptureFixture[str], command: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").touch()
    code, _, said = run(capsys, *command)
    assert code == 2
    assert "is not empty and holds no grid.json; choose another --out" in said

    grid = {"format": 1, "preset": "table1", "dataset": "pacs", "scale": "small", "data": "x", "settings": []}
    (out / "grid.json").write_text(json.dumps(grid))
    assert "holds another grid: preset is 'table1' there and 'decorrelation' here" in run(capsys, *command)[2]
    (out / "grid.json").write_text('{"format": 1, "pres')
    assert "grid.json is damaged or half-written" in run(capsys, *command)[2]
    assert not (out / "runs").exists()


def test_a_preset_that_changed_since_the_folder_was_begun_is_refused(
    capsys: pytest.CaptureFixture[str], command: list[str], tmp_path: Path
) -> None:
    command[command.index("--seeds") + 1] = "1"
    assert run(capsys, *command)[0] == 0
    path = tmp_path / "out" / "grid.json"
    path.write_text(path.read_text().replace("rounds=2", "rounds=3"))
    changed = [word.replace("rounds=2", "rounds=3") for word in command]
    code, _, said = run(capsys, *changed)
    assert code == 2
    assert "has changed since" in said
    assert "rounds is 2 there and 3 here" in said


def test_missing_data_say_what_to_fetch(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, said = run(capsys, "reproduce", "table1")
    assert code == 2
    assert out == ""
    assert "table1 needs CIFAR-10, and there is no data/cifar10/train.npz: unpack the binary version" in said
    assert "--data npz:FOLDER" in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["hospitals"], "heart has 2 classes and npz:"),
        (["feature_shift", "--set", "data.train_size=1000"], "120 examples, 1000 were asked for"),
        (
            ["feature_shift", "--set", "partition=iid"],
            "--set sets what the table varies: FedAvg at domains and FedAvg at",
        ),
        (["table1", "--jobs", "0"], "--jobs is how many runs at the same time"),
        (["figures", "--scale", "paper"], "--scale is for tables"),
        (["figures", "--seeds", "0,1"], "how many --seeds"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    capsys: pytest.CaptureFixture[str], tiny_data: Path, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    data = ["--data", f"npz:{tiny_data}", "--out", str(tmp_path / "out")]
    tiny = () if arguments[0] == "figures" else SETTINGS
    code, out, said = run(capsys, "reproduce", arguments[0], *tiny, *arguments[1:], *data)
    assert code == 2
    assert out == ""
    assert sentence in said.splitlines()[-1]


def test_without_a_name_the_tables_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    code, printed, _ = run(capsys, "reproduce")
    assert code == 0
    assert printed.startswith("backbones ")
    assert "figures " in printed


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_grid_that_is_stopped_leaves_no_process_and_can_go_on(
    capsys: pytest.CaptureFixture[str], command: list[str], tmp_path: Path, how: signal.Signals
) -> None:
    longer = [word.replace("rounds=2", "rounds=3000") for word in command]
    program = [sys.executable, "-m", "decollapse.cli", *longer]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True, start_new_session=True) as stopped:
        assert stopped.stderr is not None
        for line in stopped.stderr:
            if "round    3/3000" in line:
                break
        os.kill(stopped.pid, how)
        said = stopped.stderr.read()
        assert stopped.wait() == (130 if how == signal.SIGINT else -signal.SIGKILL)
    if how == signal.SIGINT:
        assert said.splitlines()[-1] == "Stopped. The same command goes on where it was."
    deadline = time.monotonic() + 20
    while processes_of(stopped.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not processes_of(stopped.pid)
    code, printed, _ = run(capsys, *longer, "--dry-run")
    assert code == 0
    assert "begun " in printed


def processes_of(session: int) -> list[int]:
    """The processes of a session that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of_session = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(of_session) == session and state != "Z":
            found.append(int(path.parent.name))
    return found
