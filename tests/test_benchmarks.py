from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMPARE = ROOT / "benchmarks" / "peers" / "compare.py"


def compare(out: Path, *options: str) -> str:
    command = [
        sys.executable,
        str(COMPARE),
        "--job",
        "b",
        "--small",
        "--data",
        "noise",
        "--rounds",
        "1",
        "--turns",
        "1",
    ]
    run = subprocess.run([*command, "--out", str(out), *options], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speed")
    compare(folder, "--sides", "decollapse", "by_hand")
    return folder


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "b_small.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_every_side_starts_from_the_same_model_and_data(out: Path) -> None:
    results = [line["result"] for line in lines(out)]

    assert len(results) == 3  # decollapse, and by_hand with 1 and 2 threads
    assert len({result["start"] for result in results}) == 1
    assert len({result["accuracies"]["0"] for result in results}) == 1


@pytest.mark.slow
def test_the_parts_of_a_run_add_up(out: Path) -> None:
    for line in lines(out):
        result = line["result"]
        assert result["seconds"] == pytest.approx(result["startup"] + sum(result["seconds_a_round"]))
        assert result["peak_mb"] > 0


@pytest.mark.slow
def test_the_table_has_a_row_a_side_with_its_ratio_to_ours(out: Path) -> None:
    rows = json.loads((out / "b_small.json").read_text())["rows"]

    assert [row["side"] for row in rows] == ["decollapse", "by_hand", "by_hand"]
    assert rows[0]["ratio"] == 1
    assert rows[1]["ratio"] == rows[1]["seconds"] / rows[0]["seconds"]


@pytest.mark.slow
def test_what_is_stored_is_not_run_again(out: Path) -> None:
    before = (out / "b_small.jsonl").read_text()

    compare(out, "--sides", "decollapse", "by_hand")

    assert (out / "b_small.jsonl").read_text() == before


@pytest.mark.slow
def test_a_side_that_cannot_run_says_why_in_the_table(tmp_path: Path) -> None:
    text = compare(tmp_path, "--sides", "pfl")

    assert "did not run: pfl averages parameters alone" in text


@pytest.mark.slow
def test_a_side_beyond_the_limit_is_stopped_and_says_so(tmp_path: Path) -> None:
    text = compare(tmp_path, "--sides", "decollapse", "--limit", "0.5")

    assert "did not run: stopped after the limit of 0.5 s" in text
