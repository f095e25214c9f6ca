"""Data sets held in memory, and where they come from."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from decollapse.data.formats import Examples, Splits, as_images, read_idx_folder, read_npz_folder
from decollapse.data.huggingface import read_hugging_face
from decollapse.data.preprocess import Normalize

if TYPE_CHECKING:
    from jaxtyping import Int, Shaped
    from numpy.typing import NDArray

FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
MOST_GROUPS = 20
"""A column with more values, such as an age or a writer, makes no groups whose accuracies anyone would read."""


@dataclass(frozen=True, eq=False)
class Groups:
    """What a column says of every example, as groups.

    Attributes:
        values: what the groups are called, sorted.
        codes: of each example, the number of its group.

    >>> Groups.of(np.array(["photo", "sketch", "photo"]))
    Groups(values=('photo', 'sketch'), codes=tensor([0, 1, 0]))
    """

    values: tuple[str, ...]
    codes: Int[Tensor, "n"]

    @classmethod
    def of(cls, column: NDArray[Any]) -> Groups:
        """Number the distinct values; integers are numbered too, so that codes have no gaps."""
        comparable = column.astype(str) if column.dtype == object else column  # text with gaps holds None
        values, codes = np.unique(comparable, return_inverse=True)
        return cls(tuple(map(str, values)), torch.from_numpy(codes.astype(np.int64)))

    @property
    def counts(self) -> dict[str, int]:
        """Examples of each group."""
        counts = torch.bincount(self.codes, minlength=len(self.values)).tolist()
        return dict(zip(self.values, counts, strict=True))


@dataclass(frozen=True, eq=False)
class Dataset:
    """A labelled data set in memory, with a training and a test split.

    Attributes:
        name: how it was asked for; every complaint begins with it.
        train_x: uint8 images (n, channels, height, width), or finite floating-point features (n, ...); n is 0 where
            the training examples are with the clients of a real federation.
        train_y: labels, 0 to num_classes - 1, int64.
        test_x: the same for the test split.
        test_y: its labels.
        classes: the names of the classes, in the order of the labels.
        preprocess: turns a batch of images or features into the model's floating-point input.
        train_columns: what else is known of every training example, as int64 codes: its writer, hospital or domain.
        test_groups: the same of the test split, for columns of 2 to 20 values: accuracy is recorded for each.

    Raises:
        ValueError: lengths or shapes that do not match, no test example, a label outside the classes, features that are
            not finite.

    >>> x, y = torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])
    >>> data = Dataset("toy", x, y, x, y, classes=("cat", "dog"), preprocess=Normalize((0.0,), (1.0,)))
    >>> data.num_classes, data.input_shape
    (2, (2,))
    """

    name: str
    train_x: Shaped[Tensor, "n ..."] = field(repr=False)
    train_y: Int[Tensor, "n"] = field(repr=False)
    test_x: Shaped[Tensor, "m ..."] = field(repr=False)
    test_y: Int[Tensor, "m"] = field(repr=False)
    classes: tuple[str, ...]
    preprocess: Callable[[Tensor], Tensor]
    train_columns: Mapping[str, Int[Tensor, "n"]] = field(default_factory=dict, repr=False)
    test_groups: Mapping[str, Groups] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for split, x, y in (("train", self.train_x, self.train_y), ("test", self.test_x, self.test_y)):
            if split == "test" or len(x) or len(y):
                _check_split(f"{self.name}: the {split} split", x, y, self.num_classes)
        if self.train_x.shape[1:] != self.test_x.shape[1:] or self.train_x.dtype != self.test_x.dtype:
            raise ValueError(
                f"{self.name}: training examples are {self.train_x.dtype} of shape {self.input_shape}, "
                f"test examples {self.test_x.dtype} of shape {tuple(self.test_x.shape[1:])}; they must be alike."
            )
        for column, codes, y in (
            *((column, codes, self.train_y) for column, codes in self.train_columns.items()),
            *((column, groups.codes, self.test_y) for column, groups in self.test_groups.items()),
        ):
            if len(codes) != len(y):
                raise ValueError(f"{self.name}: column {column!r} has {len(codes)} entries for {len(y)} examples.")

    @property
    def num_classes(self) -> int:
        """The number of classes, of which a split may lack some."""
        return len(self.classes)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example: (channels, height, width) or (features,)."""
        return tuple(self.train_x.shape[1:])

    def share_memory(self) -> Dataset:
        """Move the tensors to shared memory, in place, so that worker processes read them without a copy."""
        for tensor in (self.train_x, self.train_y, self.test_x, self.test_y, *self.train_columns.values()):
            tensor.share_memory_()
        return self


def _check_split(where: str, x: Tensor, y: Tensor, num_classes: int) -> None:
    if y.ndim != 1 or y.dtype != torch.int64 or len(x) != len(y) or len(y) == 0:
        raise ValueError(
            f"{where} needs one int64 label an example and at least one example, "
            f"got {len(x)} examples and labels of shape {tuple(y.shape)}, {y.dtype}."
        )
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"{where} has label {low if low < 0 else high}, outside its {num_classes} classes (0 to {num_classes - 1})."
        )
    if x.dtype == torch.uint8 and x.ndim != 4:
        raise ValueError(f"{where}: uint8 images must have shape (n, channels, h, w), got {tuple(x.shape)}.")
    if x.dtype != torch.uint8 and not (x.is_floating_point() and x.ndim >= 2):
        raise ValueError(
            f"{where} needs uint8 images or floating-point features (n, d), got {x.dtype} of shape {tuple(x.shape)}."
        )
    if x.is_floating_point() and not bool(x.isfinite().all()):
        raise ValueError(f"{where} has NaN or infinite features; fill in or drop missing values first.")


@dataclass(frozen=True)
class DataSource:
    """Names a data set and how much of it to use; `load()` reads it.

    A subset is drawn once with `subset_seed`, keeping the proportions of the classes (to within one example a class),
    and stays in the order of the file: runs with different seeds see the same examples.

    Attributes:
        name: `fashion-mnist-small` (5,000 + 2,000 images that come with this package), `digits` (1,797, too),
            `fashion-mnist` (Debian's package dataset-fashion-mnist) or `fashion-mnist:FOLDER` (IDX files),
            `npz:FOLDER` (train.npz and test.npz, see `formats.read_npz_folder`), or `hf:NAME_OR_FOLDER` (Hugging Face:
            a name on the Hub, or a folder of parquet files or of images, see `huggingface.read_hugging_face`). The run
            folder of a real federation has `clients`, which can be loaded nowhere.
        train_size: how many training examples to keep; all by default.
        test_size: the same for the test split.
        subset_seed: of that choice, and of nothing else.
        preprocess: overrides the normalisation, which otherwise is the one the files give, else the mean and standard
            deviation of the whole training split.

    Raises:
        ValueError: unknown name, size below 1; on `load()`, a missing or damaged file, or a size above what there is.
    """

    name: str = "fashion-mnist-small"
    train_size: int | None = None
    test_size: int | None = None
    subset_seed: int = 0
    preprocess: Normalize | None = None

    def __post_init__(self) -> None:
        kind, _, location = self.name.partition(":")
        if kind not in READERS:
            near = difflib.get_close_matches(kind, READERS, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else "see the list of data sets."
            raise ValueError(f"there is no data set {self.name!r}, {hint} There are {', '.join(FORMS)}.")
        if bool(location) and kind in ("fashion-mnist-small", "digits", "clients"):
            raise ValueError(f"{kind!r} takes no location, got {self.name!r}.")
        if not location and kind in ("npz", "hf"):
            raise ValueError(f"{kind!r} needs to know where: {kind}:FOLDER, for example {kind}:data/mine.")
        for what, size in (("train_size", self.train_size), ("test_size", self.test_size)):
            if size is not None and size < 1:
                raise ValueError(f"{what} must be at least 1, got {size}; leave it out to use every example.")

    def load(self) -> Dataset:
        """Read the files, draw the subsets, and check the result."""
        kind, _, location = self.name.partition(":")
        splits = READERS[kind](location)
        train, test = splits.train, splits.test
        classes = splits.classes or tuple(str(label) for label in range(int(train.y.max()) + 1))
        kept = _subset(train.y, self.train_size, self.subset_seed, f"{self.name}: the train split")
        kept_test = _subset(test.y, self.test_size, self.subset_seed, f"{self.name}: the test split")
        groups = {column: Groups.of(values) for column, values in test.columns.items()}
        return Dataset(
            name=self.name,
            train_x=train.x[kept],
            train_y=train.y[kept],
            test_x=test.x[kept_test],
            test_y=test.y[kept_test],
            classes=classes,
            preprocess=self.preprocess or splits.normalize or Normalize.fit(train.x),
            train_columns={column: Groups.of(values).codes[kept] for column, values in train.columns.items()},
            test_groups={
                column: Groups(there.values, there.codes[kept_test])
                for column, there in groups.items()
                if 2 <= len(there.values) <= MOST_GROUPS
            },
        )


def load_dataset(
    name: str, *, train_size: int | None = None, test_size: int | None = None, subset_seed: int = 0
) -> Dataset:
    """Load a data set by name; see `DataSource` for the names and the sizes.

    >>> load_dataset("fashion-mnist-small", train_size=100).train_x.shape
    torch.Size([100, 1, 28, 28])
    """
    return DataSource(name, train_size=train_size, test_size=test_size, subset_seed=subset_seed).load()


def _subset(y: Int[Tensor, "n"], size: int | None, seed: int, where: str) -> slice | Int[Tensor, "k"]:
    """Indices of a class-stratified random subset, ascending; everything where `size` is None."""
    if size is None:
        return slice(None)
    if size > len(y):
        raise ValueError(f"{where} has {len(y)} examples, {size} were asked for.")
    # NumPy promises the stream of this legacy generator for ever: the subset does not change with its version.
    shuffled = torch.from_numpy(np.random.RandomState(seed).permutation(len(y)))
    by_class = shuffled[y[shuffled].sort(stable=True).indices]
    evenly = torch.arange(size) * len(y) // size
    return by_class[evenly].sort().values


def _read_embedded(_: str) -> Splits:
    return read_npz_folder(Path(__file__).with_name("fashion_mnist_small"))


def _read_fashion_mnist(location: str) -> Splits:
    folder = Path(location).expanduser() if location else DEBIAN_FASHION_MNIST
    if not folder.is_dir():
        raise ValueError(
            f"there is no folder {folder}; `apt-get install dataset-fashion-mnist`, "
            "or name the folder with the IDX files: fashion-mnist:FOLDER."
        )
    splits = read_idx_folder(folder)
    return Splits(splits.train, splits.test, FASHION_CLASSES)


def _read_npz(location: str) -> Splits:
    return read_npz_folder(Path(location).expanduser())


def _read_digits(_: str) -> Splits:
    """The 1,797 digits, 8x8, their 17 grey levels stretched to 0..255; a fixed fifth is the test split."""
    digits = np.load(Path(__file__).with_name("digits.npz"))
    x = as_images(np.rint(digits["x"] * (255 / 16)).astype(np.uint8), origin="digits")
    y = torch.from_numpy(digits["y"].astype(np.int64))
    in_test = torch.zeros(len(y), dtype=torch.bool)
    in_test[_subset(y, 360, 0, "digits")] = True
    return Splits(Examples(x[~in_test], y[~in_test]), Examples(x[in_test], y[in_test]))


def _read_nowhere(_: str) -> Splits:
    raise ValueError("the examples of this run are with the clients of its federation; go on with `flwr run` there.")


READERS: dict[str, Callable[[str], Splits]] = {
    "fashion-mnist-small": _read_embedded,
    "digits": _read_digits,
    "fashion-mnist": _read_fashion_mnist,
    "npz": _read_npz,
    "hf": read_hugging_face,
    "clients": _read_nowhere,
}
FORMS = ("fashion-mnist-small", "digits", "fashion-mnist", "fashion-mnist:FOLDER", "npz:FOLDER", "hf:NAME_OR_FOLDER")
