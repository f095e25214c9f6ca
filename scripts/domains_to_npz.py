"""Write a folder of domains as the data of `decollapse reproduce feature_shift`.

    python scripts/domains_to_npz.py PACS data/pacs --size 64

The folder holds a folder for each domain, with a folder of pictures for each class (needs Pillow), or DOMAIN.npz with
`x` (N, H, W, 3) uint8, `y` (N,) and `names` of the classes. A fifth of every class of every domain becomes the test
split, always the same. `train.npz` and `test.npz` get a column `domain`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Domain = tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def main() -> None:
    """Read every domain, split it, and write both splits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=64, help="pixels a side of a picture")
    parser.add_argument("--test", type=float, default=0.2, help="share of the test split")
    options = parser.parse_args()
    domains = read_domains(options.source, options.size)
    for name, split in zip(("train", "test"), split_domains(domains, options.test), strict=True):
        options.out.mkdir(parents=True, exist_ok=True)
        np.savez(options.out / f"{name}.npz", **split)
        print(options.out / f"{name}.npz", *split["x"].shape)


def read_domains(source: Path, size: int) -> dict[str, Domain]:
    """The pictures, labels and class names of each domain."""
    archives = sorted(source.glob("*.npz"))
    found = {path.stem: read_archive(path) for path in archives}
    if not found:
        found = {path.name: read_pictures(path, size) for path in sorted(source.iterdir()) if path.is_dir()}
    if len(found) < 2:
        raise SystemExit(f"{source} needs at least two domains, each a folder or an .npz; there is {list(found)}.")
    classes = {tuple(names) for _, _, names in found.values()}
    if len(classes) > 1:
        raise SystemExit(f"the domains of {source} have different classes: {sorted(classes)}.")
    return found


def read_archive(path: Path) -> Domain:
    """One domain from its arrays."""
    with np.load(path) as archive:
        return archive["x"], archive["y"].astype(np.int64), [str(name) for name in archive["names"]]


def read_pictures(folder: Path, size: int) -> Domain:
    """One domain from a folder of pictures for each class."""
    from PIL import Image

    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    pictures, labels = [], []
    for label, name in enumerate(names):
        for path in sorted(path for path in (folder / name).iterdir() if path.suffix.lower() in SUFFIXES):
            with Image.open(path) as picture:
                pictures.append(np.asarray(picture.convert("RGB").resize((size, size))))
            labels.append(label)
    if not pictures:
        raise SystemExit(f"{folder} has no folder of pictures for a class.")
    return np.stack(pictures), np.array(labels, dtype=np.int64), names


def split_domains(domains: dict[str, Domain], share: float) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
    """The training and the test split: `share` of every class of every domain is for testing."""
    x, y = (np.concatenate([domain[part] for domain in domains.values()]) for part in (0, 1))
    column = np.concatenate([np.full(len(domain[1]), name) for name, domain in domains.items()])
    names = np.array(next(iter(domains.values()))[2])
    generator = np.random.RandomState(0)
    in_test = np.zeros(len(y), dtype=bool)
    for domain in domains:
        for label in range(len(names)):
            there = generator.permutation(np.flatnonzero((column == domain) & (y == label)))
            in_test[there[: round(share * len(there))]] = True
    splits = [{"x": x[rows], "y": y[rows], "domain": column[rows], "names": names} for rows in (~in_test, in_test)]
    return splits[0], splits[1]


if __name__ == "__main__":
    main()
