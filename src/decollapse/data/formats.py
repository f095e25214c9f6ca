"""Readers of data files: IDX (MNIST's format), NumPy archives, Hugging Face `datasets`.

Every reader returns plain tensors and names the file in every complaint. Nothing is ever unpickled.
"""

from __future__ import annotations

import gzip
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from decollapse.data.preprocess import Normalize

if TYPE_CHECKING:
    from jaxtyping import Int, Shaped
    from numpy.typing import NDArray

DAMAGE = (OSError, EOFError, ValueError, KeyError, zlib.error, zipfile.BadZipFile)
"""What gzip, zip and NumPy raise on a file that is truncated or is something else."""


@dataclass(frozen=True, eq=False)
class Examples:
    """One split as read from disk.

    Attributes:
        x: uint8 images (n, channels, height, width) or floating-point features.
        y: labels.
        columns: what else is known of every example, by name: its writer, its hospital, its domain.
    """

    x: Shaped[Tensor, "n ..."]
    y: Int[Tensor, "n"]
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Splits:
    """A training and a test split with what the files say about both.

    Attributes:
        train: the training split.
        test: the test split.
        classes: class names, or None where the files have none.
        normalize: the normalisation the files ask for, or None.
    """

    train: Examples
    test: Examples
    classes: tuple[str, ...] | None = None
    normalize: Normalize | None = None


def read_idx_folder(folder: Path) -> Splits:
    """Read `{train,t10k}-images-idx3-ubyte` and `-labels-idx1-ubyte`, each plain or with `.gz`."""
    train, test = (
        Examples(
            as_images(read_idx(folder / f"{split}-images-idx3-ubyte"), origin=folder),
            torch.from_numpy(read_idx(folder / f"{split}-labels-idx1-ubyte").astype(np.int64)),
        )
        for split in ("train", "t10k")
    )
    return Splits(train, test)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read one IDX file of unsigned bytes, `path` itself or `path` with `.gz`.

    Raises:
        ValueError: neither exists, or the content is truncated or not IDX.
    """
    found = next((p for p in (path, path.with_name(path.name + ".gz")) if p.is_file()), None)
    if found is None:
        raise ValueError(f"there is no file {path} (nor {path.name}.gz).")
    try:
        content = gzip.decompress(found.read_bytes()) if found.suffix == ".gz" else found.read_bytes()
    except DAMAGE as error:
        raise ValueError(f"{found} is truncated or not a gzip file ({error}); get it again.") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise ValueError(f"{found} is not an IDX file of unsigned bytes.")
    start = 4 + 4 * content[3]
    shape = np.frombuffer(content[4:start].ljust(start - 4, b"\0"), dtype=">u4").tolist()
    if len(content) - start != math.prod(shape):
        raise ValueError(
            f"{found} is truncated or too long: {len(content)} bytes, {start + math.prod(shape)} expected; "
            "get it again."
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def read_npz_folder(folder: Path) -> Splits:
    """Read `train.npz` and `test.npz`.

    Keys: `x`, (N, H, W, C) or (N, H, W) images or (N, d) features; `y`, (N,) integer labels; optional in `train.npz`:
    `names` of the classes, `mean` and `std` for `Normalize`. Any other key with N entries is a column.
    """
    arrays = {split: read_npz(folder / f"{split}.npz") for split in ("train", "test")}
    train, test = (_npz_examples(arrays[split], folder / f"{split}.npz") for split in ("train", "test"))
    about = arrays["train"]
    names = tuple(str(name) for name in about["names"]) if "names" in about else None
    if ("mean" in about) != ("std" in about):
        raise ValueError(f"{folder / 'train.npz'} needs both mean and std, or neither.")
    normalize = Normalize(tuple(about["mean"].tolist()), tuple(about["std"].tolist())) if "mean" in about else None
    return Splits(train, test, names, normalize)


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Read every array of an archive.

    Raises:
        ValueError: the file is missing, truncated, pickled, or has no `x` and `y`.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}; an npz data set is a folder with train.npz and test.npz.")
    try:
        # Opened here because `np.load` leaves a file open that turns out not to be an archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except DAMAGE as error:
        raise ValueError(f"{path} is truncated or not an .npz archive of plain arrays ({error}).") from error
    if not {"x", "y"} <= arrays.keys():
        raise ValueError(f"{path} needs the arrays x and y, it has {', '.join(arrays) or 'none'}.")
    return arrays


def _npz_examples(arrays: dict[str, NDArray[Any]], path: Path) -> Examples:
    x, y = arrays["x"], arrays["y"]
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise ValueError(f"y in {path} must be a vector of integers, got {y.dtype} of shape {y.shape}.")
    reserved = ("x", "y", "names", "mean", "std")
    columns = {
        key: array for key, array in arrays.items() if key not in reserved and array.ndim == 1 and len(array) == len(y)
    }
    return Examples(
        as_features(x, origin=path) if x.ndim == 2 else as_images(x, origin=path),
        torch.from_numpy(y.astype(np.int64)),
        columns,
    )


def as_images(x: NDArray[Any], *, origin: Path | str) -> Shaped[Tensor, "n c h w"]:
    """(N, H, W) or (N, H, W, C) to contiguous (N, C, H, W), integers to uint8, floating point as it is."""
    if x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[-1] > 4):
        raise ValueError(
            f"x in {origin} has shape {x.shape}, expected images (N, H, W) or (N, H, W, channels) or features (N, d)."
        )
    if x.dtype.kind == "f":
        x = x.astype(np.promote_types(x.dtype, np.float32), copy=False)
    elif x.dtype != np.uint8:
        if x.dtype.kind not in "iu" or x.size == 0 or x.min() < 0 or x.max() > 255:
            raise ValueError(f"images in {origin} must be integers from 0 to 255 or floating point, got {x.dtype}.")
        x = x.astype(np.uint8)
    channels_last = torch.from_numpy(x.copy() if x.ndim == 4 else x[..., None].copy())
    return channels_last.permute(0, 3, 1, 2).contiguous()


def as_features(x: NDArray[Any], *, origin: Path | str) -> Shaped[Tensor, "n d"]:
    """(N, d) numbers to floating point: float64 stays, everything else becomes float32."""
    if x.dtype.kind not in "iufb":
        raise ValueError(f"features in {origin} must be numbers, got {x.dtype}.")
    return torch.from_numpy(x.astype(np.float64 if x.dtype == np.float64 else np.float32))
