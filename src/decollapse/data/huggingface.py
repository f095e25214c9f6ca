"""Data sets read with Hugging Face `datasets`: from the Hub by name, or a local folder of parquet files or of images.

`datasets` and Pillow are an extra, `pip install 'decollapse[datasets]'`, and are imported only here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from decollapse.data.formats import Examples, Splits, as_features, as_images

if TYPE_CHECKING:
    import datasets
    from torch import Tensor

LABELS = ("label", "labels", "y", "target", "fine_label")
SCALARS = (
    *("bool", "string", "large_string", "float16", "float32", "float64"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
TEST_SPLITS = ("test", "validation")


def read_hugging_face(location: str) -> Splits:
    """Read the splits `train` and `test` (or `validation`) of a data set.

    The label is the column called label, labels, y, target or fine_label, or else the first of class labels. With an
    image column, those images are the examples and every other scalar column is kept as a column; without one, the
    numeric columns are the features and the text columns are kept.

    Args:
        location: a folder, or a name on the Hub (which downloads it).

    Raises:
        ValueError: the extra is not installed, nothing can be read there, a split or the label is missing, or images
            differ in size.
    """
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"reading hf:{location} needs Hugging Face's datasets: pip install 'decollapse[datasets]'."
        ) from error
    folder = Path(location).expanduser()
    try:
        found = datasets.load_dataset(str(folder) if folder.is_dir() else location)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"hf:{location} is neither a readable folder nor a data set that could be had from the Hub ({error})."
        ) from error
    test_split = next((split for split in TEST_SPLITS if split in found), None)
    if "train" not in found or test_split is None:
        raise ValueError(f"hf:{location} needs the splits train and test (or validation), it has {', '.join(found)}.")

    features = found["train"].features
    label = _label_column(features, location)
    names = features[label].names if isinstance(features[label], datasets.ClassLabel) else None
    image = next((name for name, feature in features.items() if isinstance(feature, datasets.Image)), None)
    grey = image is not None and found["train"][0][image].mode in ("1", "L")
    train, test = (
        _examples(found[split], label, image, "L" if grey else "RGB", f"hf:{location}, split {split}")
        for split in ("train", test_split)
    )
    return Splits(train, test, tuple(names) if names else None)


def _label_column(features: datasets.Features, location: str) -> str:
    import datasets

    classes = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    label = next((name for name in (*LABELS, *classes) if name in features), None)
    if label is None:
        raise ValueError(f"hf:{location} needs a label column ({', '.join(LABELS)}), it has {', '.join(features)}.")
    return str(label)


def _examples(split: datasets.Dataset, label: str, image: str | None, mode: str, where: str) -> Examples:
    import datasets

    y = np.asarray(split[label])
    if y.dtype.kind not in "iu":
        raise ValueError(f"{where}: labels must be integers or class labels, column {label!r} has {y.dtype}.")
    scalars = {
        name: np.asarray(split[name])
        for name, feature in split.features.items()
        if name != label and isinstance(feature, datasets.Value | datasets.ClassLabel) and feature.dtype in SCALARS
    }
    if image is not None:
        return Examples(_decode(split[image], mode, where), torch.from_numpy(y.astype(np.int64)), scalars)
    numbers = [values for values in scalars.values() if values.dtype.kind in "iufb"]
    if not numbers:
        raise ValueError(f"{where}: there is neither an image column nor a numeric one beside the label.")
    columns = {name: values for name, values in scalars.items() if values.dtype.kind not in "iufb"}
    return Examples(as_features(np.stack(numbers, 1), origin=where), torch.from_numpy(y.astype(np.int64)), columns)


def _decode(images: Any, mode: str, where: str) -> Tensor:
    pixels = [np.asarray(image.convert(mode)) for image in images]
    sizes = sorted({array.shape[:2] for array in pixels})
    if len(sizes) > 1:
        raise ValueError(
            f"{where}: images must have one size, found {sizes[0]} and {sizes[-1]} (height, width); resize them."
        )
    return as_images(np.stack(pixels), origin=where)
