"""The files that are written, and what is said about the runs that are not in them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from tiny_study import Drawn

from decollapse import cli
from decollapse.figures import write_figures
from decollapse.figures.panels import ALPHA

PICTURES = [
    f"figure_{name}.{suffix}" for name in ("global", "local", "significant", "sphere") for suffix in ("svg", "png")
]


@pytest.fixture
def runs(drawn: Drawn, tmp_path: Path) -> Path:
    """Two settings, two seeds."""
    for name in ("iid", "alpha=0.05"):
        shutil.copytree(drawn.folder / "runs" / name, tmp_path / "runs" / name)
    return tmp_path / "runs"


def folders(runs: Path) -> list[Path]:
    return sorted(path.parent for path in runs.rglob("run.json"))


def test_the_command_writes_a_page_numbers_and_pictures_and_says_where(drawn: Drawn) -> None:
    names = ["figures.html", "figures.json", *PICTURES]
    assert drawn.stdout.split() == [str(drawn.folder / name) for name in names]
    assert all((drawn.folder / name).stat().st_size > 1000 for name in names)


def test_the_same_runs_give_the_same_bytes(drawn: Drawn, tmp_path: Path) -> None:
    write_figures(folders(drawn.folder / "runs"), tmp_path)
    for name in ("figures.html", "figures.json", *PICTURES):
        assert (tmp_path / name).read_bytes() == (drawn.folder / name).read_bytes(), name


def test_the_words_of_a_drawing_are_text(drawn: Drawn) -> None:
    for name in [name for name in PICTURES if name.endswith("svg")]:
        words = "".join(ElementTree.parse(drawn.folder / name).getroot().itertext())
        assert "FedAvg + FedDecorr 0.1" in words
        assert f"{ALPHA} = 0.01" in words or name == "figure_significant.svg"


def test_without_matplotlib_the_page_is_written_and_one_sentence_says_how_to_get_it(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.run_command(["figures", str(runs), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert said.err == "PNG and SVG pictures need matplotlib: pip install 'decollapse[figures]'.\n"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["figures.html", "figures.json"]


def test_absolute_eigenvalues_are_drawn_when_asked_for(runs: Path, tmp_path: Path) -> None:
    assert cli.run_command(["figures", str(runs), "--absolute", "--out", str(tmp_path / "out")]) == 0
    table = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert table["eigenvalues"] == "absolute"
    (iid,) = [one for one in table["settings"] if one["curve"] == "IID"]
    files = [runs / "iid" / f"seed={seed}" / "spectra" / "round-0002.npz" for seed in (0, 1)]
    largest = [np.log10(np.load(file)["global_covariance"][0]) for file in files]
    assert iid["log10_global"][0] == pytest.approx(np.mean(largest), abs=6e-4)
    assert "divided by" not in (tmp_path / "out" / "figures.html").read_text()


def drop(file: Path, keep: str) -> None:
    arrays = {name: values for name, values in np.load(file).items() if name.startswith(keep)}
    np.savez(file, **arrays)


def test_runs_without_local_spectra_are_left_out_of_that_figure_alone(runs: Path, tmp_path: Path) -> None:
    for file in runs.rglob("round-0002.npz"):
        drop(file, "global")
    written, notes = write_figures(folders(runs), tmp_path / "out")
    assert not [path for path in written if "local" in path.name]
    assert len(notes) == 4
    assert all("evaluation.local_every=1" in note for note in notes)
    page = (tmp_path / "out" / "figures.html").read_text()
    assert 'id="global"' in page
    assert 'id="local"' not in page
    assert all(note.split(":")[0].split("/")[-1] in page for note in notes)


def test_a_diverged_run_is_left_out_and_named(runs: Path, tmp_path: Path) -> None:
    path = runs / "iid" / "seed=1"
    lines = [json.loads(line) for line in (path / "records.jsonl").read_text().splitlines()]
    lines[-1] |= {"evaluation": lines[-1]["evaluation"] | {"loss": None}, "spectrum": None}
    (path / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "spectra" / "round-0002.npz").unlink()
    _, (note,) = write_figures(folders(runs), tmp_path / "out")
    assert note == f"{path} is left out: it has diverged, the loss of its last round is not a finite number."
    table = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert [(one["curve"], one["seeds"]) for one in table["settings"]] == [(f"{ALPHA} = 0.05", [0, 1]), ("IID", [0])]


def test_runs_of_which_none_can_be_drawn_are_a_mistake(
    runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for file in runs.rglob("spectra/*.npz"):
        file.unlink()
    assert cli.run_command(["figures", str(runs), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "there is no run to draw" in said
    assert "its last round has no spectrum" in said
    assert not (tmp_path / "out").exists()


def test_one_setting_alone_can_be_drawn(drawn: Drawn, tmp_path: Path) -> None:
    written, notes = write_figures(folders(drawn.folder / "runs" / "iid"), tmp_path)
    assert len(written) == 10
    assert notes == []
