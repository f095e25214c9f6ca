"""The scripts that write domains and hospitals as data of the tables."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from decollapse.data import ByColumn, DataSource
from decollapse.reproduce.protocol import data_entries

SCRIPTS = Path(__file__).parents[2] / "scripts"


def convert(monkeypatch: pytest.MonkeyPatch, script: str, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(str(SCRIPTS / script), run_name="__main__")


def write_domains(folder: Path) -> None:
    for number, name in enumerate(("art", "photo")):
        y = np.arange(20) % 2
        x = np.full((20, 4, 4, 3), number, dtype=np.uint8)
        np.savez(folder / f"{name}.npz", x=x, y=y, names=np.array(["cat", "dog"]))


def test_domains_become_clients(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_domains(tmp_path)
    convert(monkeypatch, "domains_to_npz.py", str(tmp_path), str(tmp_path / "out"))
    dataset = DataSource(f"npz:{tmp_path / 'out'}").load()
    data_entries()["pacs"].check("pacs", dataset)
    assert dataset.classes == ("cat", "dog")
    assert dataset.test_y.bincount().tolist() == [4, 4]
    parts = ByColumn("domain")(dataset.train_y, 2, seed=0, columns=dataset.train_columns)
    assert [set(dataset.train_x[part].unique().tolist()) for part in parts] == [{0}, {1}]


def test_domains_of_pictures_are_read_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for domain in ("art", "photo"):
        for label in ("cat", "dog"):
            folder = tmp_path / "domains" / domain / label
            folder.mkdir(parents=True)
            for number in range(5):
                image.new("RGB", (9, 7), (number, 0, 0)).save(folder / f"{number}.png")
    convert(monkeypatch, "domains_to_npz.py", str(tmp_path / "domains"), str(tmp_path / "out"), "--size", "8")
    dataset = DataSource(f"npz:{tmp_path / 'out'}").load()
    assert dataset.input_shape == (3, 8, 8)
    assert (len(dataset.train_y), len(dataset.test_y)) == (16, 4)


def test_one_domain_alone_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "art").mkdir()
    (tmp_path / "art" / "cat").mkdir()
    np.savez(tmp_path / "art.npz", x=np.zeros((2, 4, 4, 3), np.uint8), y=np.arange(2), names=np.array(["a", "b"]))
    with pytest.raises(SystemExit, match="at least two domains"):
        convert(monkeypatch, "domains_to_npz.py", str(tmp_path), str(tmp_path / "out"))


def write_hospitals(folder: Path) -> None:
    for name, age in (("ours", 40), ("theirs", 60)):
        rows = [[age, 1, 4, 120, "?" if number % 4 == 0 else 200, *[0] * 8, number % 2 * 3] for number in range(16)]
        lines = [",".join(map(str, row)) for row in rows]
        (folder / f"{name}.csv").write_text("\n".join(["age" + ",x" * 13, *lines]))


def test_hospitals_become_clients(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_hospitals(tmp_path)
    convert(monkeypatch, "hospitals_to_npz.py", str(tmp_path), str(tmp_path / "out"))
    dataset = DataSource(f"npz:{tmp_path / 'out'}").load()
    data_entries()["heart"].check("heart", dataset)
    assert (len(dataset.train_y), len(dataset.test_y)) == (24, 8)
    assert dataset.test_y.bincount().tolist() == [4, 4]  # num of 0, and of 3
    assert dataset.train_columns["site"].bincount().tolist() == [12, 12]
    assert dataset.test_groups["site"].values == ("ours", "theirs")


def test_a_missing_value_is_the_mean_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_hospitals(tmp_path)
    convert(monkeypatch, "hospitals_to_npz.py", str(tmp_path), str(tmp_path / "out"))
    x = np.load(tmp_path / "out" / "train.npz")["x"]
    assert x.shape[1] == 13 + 1  # cholesterol alone is ever missing
    assert set(x[:, 4]) == {200.0}
    assert 0 < x[:, 13].sum() < len(x)


def test_a_row_that_is_too_short_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_hospitals(tmp_path)
    (tmp_path / "theirs.csv").write_text("1,2,3\n")
    with pytest.raises(SystemExit, match="theirs.csv has a row of 3 values, 14 are expected"):
        convert(monkeypatch, "hospitals_to_npz.py", str(tmp_path), str(tmp_path / "out"))
