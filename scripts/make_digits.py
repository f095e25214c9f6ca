"""Write the embedded digits from scikit-learn's copy: `python scripts/make_digits.py`, with scikit-learn installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

OUT = Path(__file__).parents[1] / "src/decollapse/data/digits.npz"


def main() -> None:
    """All 1,797 of them, 17 levels of grey."""
    digits = load_digits()
    np.savez_compressed(OUT, x=digits.images.astype(np.uint8), y=digits.target.astype(np.uint8))
    print(f"{OUT}: {OUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
