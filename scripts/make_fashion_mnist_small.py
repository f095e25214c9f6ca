"""Draw the embedded Fashion-MNIST subset: `python scripts/make_fashion_mnist_small.py [IDX_FOLDER] [OUT_FOLDER]`.

500 training and 200 test images of each class, drawn at random with a fixed seed from the IDX files of Debian's package
dataset-fashion-mnist, in random order. The same bytes every time (for one version of zlib).
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np

from decollapse.data.datasets import DEBIAN_FASHION_MNIST, FASHION_CLASSES
from decollapse.data.formats import read_idx_folder
from decollapse.data.preprocess import Normalize

SEED = 20170825  # the day the Fashion-MNIST paper appeared
OUT = Path(__file__).parents[1] / "src/decollapse/data/fashion_mnist_small"


def draw(labels: np.ndarray, per_class: int, generator: np.random.RandomState) -> np.ndarray:
    """Indices of `per_class` examples of every class, in random order."""
    chosen = [generator.permutation(np.flatnonzero(labels == label))[:per_class] for label in range(10)]
    return generator.permutation(np.concatenate(chosen))


def main(source: Path = DEBIAN_FASHION_MNIST, out: Path = OUT) -> None:
    """Write train.npz and test.npz, and print their size and checksum."""
    splits = read_idx_folder(source)
    generator = np.random.RandomState(SEED)
    whole = Normalize.fit(splits.train.x)
    about = {"names": np.array(FASHION_CLASSES), "mean": np.round(whole.mean, 6), "std": np.round(whole.std, 6)}
    out.mkdir(parents=True, exist_ok=True)
    for split, examples, per_class in (("train", splits.train, 500), ("test", splits.test, 200)):
        x, y = examples.x[:, 0].numpy(), examples.y.numpy()
        chosen = draw(y, per_class, generator)
        path = out / f"{split}.npz"
        np.savez_compressed(path, x=x[chosen], y=y[chosen].astype(np.uint8), **(about if split == "train" else {}))
        print(path, f"{path.stat().st_size:,} bytes, sha256", hashlib.sha256(path.read_bytes()).hexdigest())


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
