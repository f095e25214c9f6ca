from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from decollapse.data import load_dataset
from decollapse.data.formats import read_idx, read_npz


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def write_fashion(folder: Path, *, suffix: str = "", n: int = 12) -> np.ndarray:
    images = np.random.RandomState(0).randint(0, 256, (n, 28, 28)).astype(np.uint8)
    for split in ("train", "t10k"):
        for kind, array in (("images-idx3", images), ("labels-idx1", np.arange(n) % 10)):
            content = idx(array)
            path = folder / f"{split}-{kind}-ubyte{suffix}"
            path.write_bytes(gzip.compress(content) if suffix else content)
    return images


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_folders_are_read_plain_or_compressed(tmp_path: Path, suffix: str) -> None:
    images = write_fashion(tmp_path, suffix=suffix)
    data = load_dataset(f"fashion-mnist:{tmp_path}")
    assert torch.equal(data.train_x[:, 0], torch.from_numpy(images))
    assert data.train_y.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert data.classes[0] == "T-shirt/top"


def test_a_missing_folder_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no folder .*none; `apt-get install dataset-fashion-mnist`"):
        load_dataset(f"fashion-mnist:{tmp_path / 'none'}")


def test_a_missing_idx_file_is_named(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(
        ValueError, match=r"there is no file .*t10k-labels-idx1-ubyte \(nor t10k-labels-idx1-ubyte.gz\)"
    ):
        load_dataset(f"fashion-mnist:{tmp_path}")


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("keep", [0, 2, 5, 11, 300])
def test_a_truncated_idx_file_is_named(tmp_path: Path, suffix: str, keep: int) -> None:
    write_fashion(tmp_path, suffix=suffix)
    path = tmp_path / f"train-images-idx3-ubyte{suffix}"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte(\.gz)? is (truncated|not an IDX file)"):
        read_idx(tmp_path / "train-images-idx3-ubyte")


def test_an_idx_file_that_is_too_long_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(idx(np.zeros(3)) + b"\0")
    with pytest.raises(ValueError, match="f is truncated or too long: 12 bytes, 11 expected"):
        read_idx(tmp_path / "f")


def test_fashion_labels_above_nine_are_refused(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(12)))
    with pytest.raises(ValueError, match=r"the train split has label 11, outside its 10 classes \(0 to 9\)"):
        load_dataset(f"fashion-mnist:{tmp_path}")


def test_a_missing_npz_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no file .*train\.npz; an npz data set is a folder with"):
        load_dataset(f"npz:{tmp_path}")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_a_truncated_npz_file_is_named(tmp_path: Path, share: float) -> None:
    path = tmp_path / "train.npz"
    np.savez_compressed(path, x=np.random.RandomState(0).rand(100, 10), y=np.zeros(100, int))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=r"train\.npz is truncated or not an \.npz archive"):
        read_npz(path)


def test_a_flipped_byte_in_an_npz_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "train.npz"
    np.savez_compressed(path, x=np.random.RandomState(0).rand(100, 10), y=np.zeros(100, int))
    content = bytearray(path.read_bytes())
    content[2000] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"train\.npz is truncated or not an \.npz archive"):
        read_npz(path)


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", x=np.array([{"a": 1}, None], dtype=object), y=np.zeros(2, int))
    with pytest.raises(ValueError, match="not an .npz archive of plain arrays"):
        read_npz(tmp_path / "train.npz")


def test_an_npz_file_without_labels_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", x=np.zeros((2, 2)), label=np.zeros(2, int))
    with pytest.raises(ValueError, match=r"train\.npz needs the arrays x and y, it has x, label"):
        read_npz(tmp_path / "train.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 2)), "y": np.zeros(2)}, "y in .*train.npz must be a vector of integers, got float64"),
        ({"x": np.zeros((2, 2)), "y": np.zeros((2, 1), int)}, r"vector of integers, got int64 of shape \(2, 1\)"),
        ({"x": np.zeros((2, 3, 8, 8)), "y": np.zeros(2, int)}, r"has shape \(2, 3, 8, 8\), expected images"),
        ({"x": np.full((2, 8, 8), 256), "y": np.zeros(2, int)}, "must be integers from 0 to 255 or floating point"),
        ({"x": np.array([["a"]]), "y": np.zeros(1, int)}, "features in .* must be numbers"),
        ({"x": np.zeros((2, 2)), "y": np.zeros(2, int), "mean": np.zeros(2)}, "needs both mean and std, or neither"),
        ({"x": np.zeros((2, 2)), "y": np.zeros(3, int)}, "the train split needs one int64 label an example"),
    ],
)
def test_arrays_that_are_no_data_set_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    for split in ("train", "test"):
        np.savez(tmp_path / f"{split}.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_dataset(f"npz:{tmp_path}")


def test_floating_point_images_stay_floating_point(tmp_path: Path) -> None:
    for split in ("train", "test"):
        np.savez(
            tmp_path / f"{split}.npz", x=np.random.RandomState(0).rand(3, 4, 5, 3).astype(np.float16), y=np.arange(3)
        )
    data = load_dataset(f"npz:{tmp_path}")
    assert (data.train_x.shape, data.train_x.dtype) == ((3, 3, 4, 5), torch.float32)
