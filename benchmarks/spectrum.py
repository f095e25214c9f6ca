"""How long the spectrum of streamed features takes, beside one float64 product of the features and its eigenvalues.

    python benchmarks/spectrum.py
    python benchmarks/spectrum.py --n 10000 --d 1280 --batch 500 --turns 9 --out spectrum.json

The yardstick is `eigvalsh(X.T @ X)` of features that are float64 and in one piece already; this package's contenders
get them as float32, in batches, and convert, check and centre them.

Contenders take turns, A B A B, so that whatever else the machine does falls on all of them. A ratio is the median over
turns of a contender's time over the yardstick's in the same turn, with the quartiles. Only ratios mean something.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from decollapse.diagnosis.sketch import Sketch, SketchedSpectrum, sketched_spectrum, sketched_sums
from decollapse.feature_statistics import FeatureStatistics
from decollapse.spectrum import Spectrum, eigenvalues
from decollapse.tree import add

Row = dict[str, float]


def draw(n: int, d: int) -> Tensor:
    """Features as a network has them after its ReLU: correlated, not negative, float32."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(d, d, generator=generator) / torch.arange(1, d + 1).sqrt()
    return (torch.randn(n, d, generator=generator) @ mixing).relu_()


def yardstick(features: Tensor) -> Tensor:
    """One product, one eigenvalue problem."""
    values: Tensor = torch.linalg.eigvalsh(features.T @ features)
    return values


def gathered(features: Tensor, batch: int) -> FeatureStatistics:
    """Count, mean and scatter, a batch at a time."""
    found = FeatureStatistics.empty(features.shape[1])
    for part in features.split(batch):
        found.update(part)
    return found


def both_spectra(features: Tensor, batch: int) -> Spectrum:
    """Of the covariance and of the correlation: what a record keeps."""
    return Spectrum.of(gathered(features, batch))


def covariance_spectrum(features: Tensor, batch: int) -> Tensor:
    """Of the covariance alone."""
    return eigenvalues(gathered(features, batch).covariance())


def sketched(features: Tensor, batch: int, size: int) -> SketchedSpectrum:
    """Both spectra from a sketch of `size` columns."""
    sketch, origin = Sketch(size), torch.zeros(features.shape[1])
    test = sketch.test_matrix(len(origin))
    parts = (
        sketched_sums(part, torch.zeros(len(part), dtype=torch.int64), test, num_classes=1, origin=origin)
        for part in features.split(batch)
    )
    total = next(parts)
    for part in parts:
        total = add(total, part)
    return sketched_spectrum(total, sketch)


def single_precision(features: Tensor, batch: int) -> Tensor:
    """Products of centred batches in float32, added up in float64: not in the package, here to see what it would save.

    With u = 2^-24, each product of b rows is wrong by at most (b + 3) u |Z|^T |Z| to first order, so each eigenvalue by
    at most `(b + 3) u tr Sigma`, 3e-5 of the total variance for b = 500.
    """
    n, d = features.shape
    scatter, mean, seen = torch.zeros(d, d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64), 0
    for part in features.split(batch):
        centre = part.mean(dim=0, dtype=torch.float64)
        rows = part - centre.float()
        scatter += rows.T @ rows
        # The rows are centred on a rounded mean; what rounding left is at most u of it, and its square is nothing.
        shift, share = centre - mean, len(part) / (seen + len(part))
        scatter.addr_(shift * (seen * share), shift)
        mean, seen = mean + shift * share, seen + len(part)
    return eigenvalues(scatter / n)


def take_turns(contenders: Mapping[str, Callable[[], object]], *, turns: int) -> dict[str, list[float]]:
    """Seconds of each contender in each turn, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(turns + 1):
        for name, run in contenders.items():
            began = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def summary(taken: list[float], reference: list[float]) -> Row:
    """Median seconds, and the median and quartiles of the ratio to the yardstick of the same turn."""
    ratios = [mine / theirs for mine, theirs in zip(taken, reference, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {"seconds": statistics.median(taken), "ratio": middle, "ratio_25": low, "ratio_75": high}


def main() -> None:
    """Measure, print a table, save the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000, help="examples")
    parser.add_argument("--d", type=int, default=1280, help="features")
    parser.add_argument("--batch", type=int, default=500, help="examples that come at a time")
    parser.add_argument("--sketch", type=int, default=128, help="columns of the sketch")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    features = draw(args.n, args.d)
    contenders: dict[str, Callable[[], object]] = {
        "float64 X^T X and eigvalsh": partial(yardstick, features.double()),
        "both spectra, streamed": partial(both_spectra, features, args.batch),
        "covariance alone, streamed": partial(covariance_spectrum, features, args.batch),
        f"both, sketch of {args.sketch}": partial(sketched, features, args.batch, args.sketch),
        "covariance, float32 products": partial(single_precision, features, args.batch),
    }
    seconds = take_turns(contenders, turns=args.turns)
    reference = next(iter(seconds.values()))
    rows = {name: summary(taken, reference) for name, taken in seconds.items()}
    print(f"{args.n} x {args.d} float32 features in batches of {args.batch}, {args.turns} turns")
    print(f"{'':30} {'seconds':>8} {'ratio':>6}  quartiles")
    for name, row in rows.items():
        print(f"{name:30} {row['seconds']:8.3f} {row['ratio']:6.2f}  {row['ratio_25']:.2f} to {row['ratio_75']:.2f}")

    exact = covariance_spectrum(features, args.batch)
    error = float((single_precision(features, args.batch) - exact).abs().max() / exact.sum())
    bound = (args.batch + 3) * 2.0**-24
    missing = sketched(features, args.batch, args.sketch).covariance_missing / float(exact.sum())
    print(f"float32 products: eigenvalues wrong by up to {error:.1e} of the total variance (bound {bound:.1e})")
    print(f"sketch of {args.sketch}: misses {missing:.1%} of the total variance")
    if args.out:
        machine = {"torch": torch.__version__, "machine": platform.machine(), "threads": args.threads}
        errors = {"float32": error, "float32_bound": bound, "sketch_missing": missing}
        args.out.write_text(json.dumps({"machine": machine, "contenders": rows, "errors": errors}, indent=1))


if __name__ == "__main__":
    main()
