"""Write the UCI Heart Disease tables as the data of `decollapse reproduce hospitals`.

    python scripts/hospitals_to_npz.py heart_disease data/heart

The folder holds one table a hospital, HOSPITAL.csv or UCI's processed.HOSPITAL.data: 13 features and the diagnosis
`num` from 0 to 4, "?" where a value is missing. The label is whether `num` is above 0. A missing value becomes the mean
of the training split, and a further column says that it was missing, where it ever is. A quarter of every hospital's
patients, the same share of ill ones among them, becomes the test split, always the same. `train.npz` and `test.npz` get
a column `site`.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FEATURES = (
    *("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg"),
    *("thalach", "exang", "oldpeak", "slope", "ca", "thal"),
)
TEST = 0.25


def main() -> None:
    """Read every hospital, split it, fill in what is missing, and write both splits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    for name, split in zip(("train", "test"), convert(read_hospitals(options.source)), strict=True):
        options.out.mkdir(parents=True, exist_ok=True)
        np.savez(options.out / f"{name}.npz", **split)
        print(options.out / f"{name}.npz", *split["x"].shape)


def read_hospitals(source: Path) -> dict[str, NDArray[np.float64]]:
    """The rows of each hospital, 13 features and the diagnosis; NaN where a value is missing."""
    paths = sorted([*source.glob("*.csv"), *source.glob("processed.*.data")])
    if len(paths) < 2:
        raise SystemExit(f"{source} needs at least two hospitals' tables, HOSPITAL.csv or processed.HOSPITAL.data.")
    return {path.stem.removeprefix("processed."): read_table(path) for path in paths}


def read_table(path: Path) -> NDArray[np.float64]:
    """One hospital's rows; a header is skipped."""
    with path.open(newline="") as file:
        rows = [row for row in csv.reader(file) if row and row[0] != FEATURES[0]]
    if wrong := [row for row in rows if len(row) != len(FEATURES) + 1]:
        raise SystemExit(f"{path} has a row of {len(wrong[0])} values, {len(FEATURES) + 1} are expected: {wrong[0]}.")
    return np.array([[np.nan if value.strip() == "?" else float(value) for value in row] for row in rows])


def convert(hospitals: dict[str, NDArray[np.float64]]) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
    """The training and the test split."""
    rows = np.concatenate(list(hospitals.values()))
    site = np.concatenate([np.full(len(table), name) for name, table in hospitals.items()])
    x, y = rows[:, :-1], (rows[:, -1] > 0).astype(np.int64)
    in_test = choose_test(site, y)
    missing = np.isnan(x)
    ever = missing[~in_test].any(axis=0)
    filled = np.where(missing, np.nanmean(x[~in_test], axis=0), x)
    features = np.concatenate([filled, missing[:, ever]], axis=1).astype(np.float32)
    names = np.array(["healthy", "ill"])
    splits = [{"x": features[part], "y": y[part], "site": site[part], "names": names} for part in (~in_test, in_test)]
    return splits[0], splits[1]


def choose_test(site: NDArray[np.str_], y: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which rows are for testing: the same share of the healthy and of the ill of each hospital."""
    generator = np.random.RandomState(0)
    in_test = np.zeros(len(y), dtype=bool)
    for name in dict.fromkeys(site.tolist()):
        for label in (0, 1):
            there = generator.permutation(np.flatnonzero((site == name) & (y == label)))
            in_test[there[: round(TEST * len(there))]] = True
    return in_test


if __name__ == "__main__":
    main()
