"""Tiny data of which any table can be made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.npz and test.npz: ten classes of 8 x 8 colour pictures, with a domain each."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for split, size in (("train", 120), ("test", 40)):
        y = np.arange(size) % 10
        x = (generator.integers(0, 60, (size, 8, 8, 3)) + 19 * y[:, None, None, None]).astype(np.uint8)
        np.savez(folder / f"{split}.npz", x=x, y=y, domain=np.array(["art", "photo", "sketch"])[np.arange(size) % 3])
    return folder
