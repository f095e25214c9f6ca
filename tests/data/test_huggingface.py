"""Local folders only: nothing here needs, or may use, a network."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from decollapse.data import load_dataset

pytest.importorskip("PIL.Image")
hf = pytest.importorskip("datasets")
SHADES = {"train": (10, 20, 30), "test": (40, 50, 60)}


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hf.disable_progress_bars()


def write_images(folder: Path, *, shape: tuple[int, ...] = (5, 4, 3)) -> Path:
    from PIL import Image

    for split, shades in SHADES.items():
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for shade in shades:
                Image.fromarray(np.full(shape, shade, np.uint8)).save(folder / split / name / f"{shade}.png")
    return folder


def write_table(folder: Path, columns: dict[str, list], *splits: str) -> Path:
    folder.mkdir()
    for split in splits or ("train", "test"):
        hf.Dataset.from_dict(columns).to_parquet(folder / f"{split}.parquet")
    return folder


def test_a_folder_of_images_has_its_subfolders_for_classes(tmp_path: Path) -> None:
    data = load_dataset(f"hf:{write_images(tmp_path / 'images')}")
    assert (data.classes, data.train_x.dtype, data.train_x.shape) == (("cat", "dog"), torch.uint8, (6, 3, 5, 4))
    assert sorted(data.train_x[:, 0, 0, 0].tolist()) == [10, 10, 20, 20, 30, 30]
    assert sorted(data.test_x[data.test_y == 1, 2, 4, 3].tolist()) == [40, 50, 60]


def test_grey_images_have_one_channel(tmp_path: Path) -> None:
    data = load_dataset(f"hf:{write_images(tmp_path / 'images', shape=(5, 4))}")
    assert data.train_x.shape == (6, 1, 5, 4)


def test_images_of_different_sizes_are_refused(tmp_path: Path) -> None:
    from PIL import Image

    folder = write_images(tmp_path / "images")
    Image.new("RGB", (9, 9)).save(folder / "train" / "cat" / "odd.png")
    with pytest.raises(ValueError, match=r"split train: images must have one size, found \(5, 4\) and \(9, 9\)"):
        load_dataset(f"hf:{folder}")


def test_a_parquet_table_gives_features_and_columns(tmp_path: Path) -> None:
    columns = {"age": [61.0, 47.5, 50.0], "beats": [70, 80, 90], "hospital": ["b", "a", "b"], "label": [0, 1, 0]}
    data = load_dataset(f"hf:{write_table(tmp_path / 'table', columns)}")
    assert data.train_x.tolist() == [[61.0, 70.0], [47.5, 80.0], [50.0, 90.0]]
    assert data.train_y.tolist() == [0, 1, 0]
    assert {name: codes.tolist() for name, codes in data.train_columns.items()} == {"hospital": [1, 0, 1]}


def test_parquet_images_keep_integer_columns_for_natural_clients(tmp_path: Path) -> None:
    folder = tmp_path / "parquet"
    folder.mkdir()
    features = hf.Features(
        {"img": hf.Image(), "fine_label": hf.ClassLabel(names=["u", "v"]), "writer": hf.Value("int64")}
    )
    rows = {"img": [np.full((4, 4), 9, np.uint8)] * 3, "fine_label": [0, 1, 0], "writer": [12, 12, 3]}
    for split in ("train", "validation"):
        hf.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    data = load_dataset(f"hf:{folder}")
    assert (data.classes, data.train_x.shape) == (("u", "v"), (3, 1, 4, 4))
    assert data.train_columns["writer"].tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("columns", "splits", "message"),
    [
        (
            {"a": [1.0], "kind": [0]},
            (),
            r"needs a label column \(label, labels, y, target, fine_label\), it has a, kind",
        ),
        ({"a": [1.0], "label": [0]}, ("train",), "needs the splits train and test"),
        ({"a": [1.0], "label": ["cat"]}, (), "labels must be integers or class labels"),
        ({"a": ["x"], "label": [0]}, (), "neither an image column nor a numeric one"),
    ],
)
def test_tables_that_are_no_data_set_are_refused(
    tmp_path: Path, columns: dict[str, list], splits: tuple[str, ...], message: str
) -> None:
    folder = write_table(tmp_path / "table", columns, *splits)
    with pytest.raises(ValueError, match=message):
        load_dataset(f"hf:{folder}")


def test_a_truncated_parquet_file_is_refused(tmp_path: Path) -> None:
    folder = write_table(tmp_path / "table", {"a": [1.0, 2.0], "label": [0, 1]})
    path = folder / "train.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"hf:{folder} is neither a readable folder nor"):
        load_dataset(f"hf:{folder}")


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is neither a readable folder nor a data set that could be had from the Hub"):
        load_dataset(f"hf:{tmp_path / 'missing'}")


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'decollapse\[datasets\]'"):
        load_dataset("hf:mnist")
