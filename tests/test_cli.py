"""The command line as a person meets it, mistakes first."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from decollapse import cli

TINY = ["-s", "data=digits", "-s", "data.train_size=200", "-s", "model=mlp", "-s", "rounds=1", "-s", "engine=serial"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.run_command(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["runn"], 'Unknown command "runn". Did you mean "run"?'),
        (["run", "--ouut", "x"], "Did you mean --out?"),
        (["run", "--set"], "--set requires an argument"),
        (["run", "no.toml"], "there is no recipe no.toml"),
        (["run", "-s", "client.epoch=3"], "client.epoch is no setting of client; did you mean 'epochs'?"),
        (["run", "-s", "data=npz:nowhere"], "nowhere"),
        (["run", "-s", "data=digits", "-s", "num_clients=100000"], "100000"),
        (["resume", "nowhere"], "there is no folder nowhere"),
        (["resume"], "at least one run folder"),
        (["compare"], "at least one run folder"),
        (["compare", "--metric", "acuracy", "x"], "acuracy"),
        (["report", "nowhere"], "there is no folder nowhere"),
        (["search", "--vary", "rounds=5..2"], "rounds: a range goes from a number to a greater one, got 5..2"),
        (["diagnose"], "at least one run folder, or --weights"),
        (["diagnose", "nowhere"], "there is no folder nowhere"),
        (["diagnose", "--weights", "model.pt", "--model", "mlp", "--data", "digits"], "model.pt looks like a pickle"),
        (["diagnose", "x", "--take", "middle"], "middle"),
    ],
)
def test_a_mistake_is_one_sentence_on_stderr_and_exit_code_2(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    last = err.strip().splitlines()[-1]
    assert code == 2
    assert out == ""
    assert sentence in last
    assert last.startswith("decollapse: ")


def test_debug_shows_where_a_mistake_was_noticed() -> None:
    with pytest.raises(ValueError, match="there is no recipe"):
        cli.run_command(["run", "no.toml", "--debug"])


def test_a_run_its_comparison_and_its_report(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = str(tmp_path / "study")
    sweeps = ["--sweep", "client.objective.feddecorr.beta=0,0.1", "--sweep", "seed=0,1"]
    code, printed, progress = run(capsys, "run", *TINY, *sweeps, "--out", out)
    assert code == 0
    assert "FedAvg + FedDecorr 0.1" in printed
    assert progress.count("round 1/1") == 4
    assert "\x1b" not in progress

    code, printed, _ = run(capsys, "compare", out, "--json")
    rows = json.loads(printed)
    assert [(row["label"], row["num_runs"]) for row in rows] == [("FedAvg", 2), ("FedAvg + FedDecorr 0.1", 2)]
    assert 0 <= rows[0]["values"]["accuracy"]["mean"] <= 100

    assert rows[1]["paired"]["baseline"] == "FedAvg"
    assert rows[1]["paired"]["seeds"] == [0, 1]
    code, printed, _ = run(capsys, "compare", out, "--against", "FedAvg + FedDecorr 0.1", "--metric", "loss")
    assert code == 0
    assert "Δ loss" in printed
    table = tmp_path / "tables" / "digits.tex"
    code, printed, _ = run(capsys, "compare", out, "--format", "latex", "--out", str(table))
    assert (code, printed) == (0, f"{table}\n")
    assert table.read_text().count(r"\toprule") == 2

    page = tmp_path / "page.html"
    code, printed, _ = run(capsys, "report", out, "--out", str(page))
    assert (code, printed) == (0, f"{page}\n")
    assert page.read_text().startswith("<!doctype html>")

    code, printed, progress = run(capsys, "resume", out)
    assert code == 0
    assert progress.count("finished before") == 4


def test_runs_under_other_conditions_are_compared_and_not_paired(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "study"
    assert run(capsys, "run", *TINY, "--sweep", "partition.alpha=0.1,1", "--out", str(out))[0] == 0
    code, printed, _ = run(capsys, "compare", str(out), "--format", "csv")
    assert code == 0
    assert [line.partition(",")[0] for line in printed.splitlines()] == ["setting", "α 0.1", "α 1"]  # noqa: RUF001
    code, printed, err = run(capsys, "compare", str(out / "alpha=0.1"), "--against", str(out / "alpha=1"))
    assert (code, printed) == (2, "")
    assert "cannot be paired: partition.alpha is 0.1 in" in err


def test_a_folder_that_holds_another_run_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    assert run(capsys, "run", *TINY, "--out", out)[0] == 0
    code, _, err = run(capsys, "run", *TINY, "-s", "seed=5", "--out", out)
    assert code == 2
    assert "seed is 0 there and 5 here" in err


def test_the_list_names_every_component_with_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    entries = json.loads(run(capsys, "list", "--json")[1])
    feddecorr = next(entry for entry in entries if entry["name"] == "feddecorr")
    assert feddecorr["where"] == "client.objective"
    assert feddecorr["settings"]["beta"] == 0.1
    assert "FedDecorr" not in run(capsys, "list")[2]


def test_every_method_is_listed_with_its_source(capsys: pytest.CaptureFixture[str]) -> None:
    entries = json.loads(run(capsys, "list", "--json")[1])
    places = ("algorithm", "client.objective", "aggregate", "server")
    without = {entry["name"] for entry in entries if entry["where"] in places and not entry["source"]}
    assert without == {"clients_only", "cross_entropy"}
    moon = next(entry for entry in entries if (entry["where"], entry["name"]) == ("algorithm", "moon"))
    assert moon["source"] == "https://arxiv.org/abs/2103.16257"
    assert moon["settings"] == {"mu": 1.0, "temperature": None, "compat": "paper"}


@pytest.mark.parametrize(
    "command", ["run", "resume", "compare", "report", "search", "diagnose", "figures", "theory", "list", "demo"]
)
def test_every_help_has_an_example(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert f"Example: decollapse {command}" in out.replace("\n", " ")


def test_the_program_is_installed_and_knows_its_version() -> None:
    began = time.monotonic()
    output = subprocess.run(
        [sys.executable, "-m", "decollapse.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip().count(".") == 2
    assert time.monotonic() - began < 60
