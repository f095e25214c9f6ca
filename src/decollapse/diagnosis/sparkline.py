"""A spectrum as text, for terminals and logs: in one line, and as a small table."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from statistics import fmean
from typing import SupportsFloat

from decollapse.spectrum import Spectrum

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII = "_.:-=+*#"

ENOUGH = 5
"""Examples a dimension, from which on `few_examples` has nothing to say."""

MEASURES = (
    ("effective rank", "effective_rank", ".2f"),
    ("participation ratio", "participation_ratio", ".2f"),
    ("dimensions for 90 %", "dims_90", "d"),
    ("dimensions for 99 %", "dims_99", "d"),
)


def sparkline(
    values: Iterable[SupportsFloat], *, width: int = 40, decades: float = 4.0, ascii_only: bool = False
) -> str:
    """Draw a spectrum, from its largest value to its smallest, on a logarithmic scale.

    `height = floor(8 (1 + log10(value / largest) / decades))`, from 0 to 7: with 4 decades a step is half a decade,
    and all that is below 10^-3.5 of the largest has the lowest bar. A value of zero is a blank, and so can be told from
    one that is merely small. The scale is fixed, so that two spectra can be compared by eye, whatever their units.

    Up to `width` values have a bar each. More are divided into `width` groups of neighbours, as equal as can be, and a
    bar is the geometric mean of its group; a group with zeros is the mean of its others.

    Args:
        values: eigenvalues in any order, a tensor or plain numbers; negative ones, rounding of an eigensolver, are 0.
        width: characters at most, at least 1.
        decades: powers of ten that the eight heights divide equally, above 0.
        ascii_only: draw with `_.:-=+*#`, for a terminal or a file that has no block characters.

    Raises:
        ValueError: no values, one that is NaN or infinite, or a width or number of decades out of range.

    >>> sparkline([100.0, 10.0, 1.0, 0.1, 0.01, 0.0])
    '█▇▅▃▁ '
    >>> sparkline([100.0, 10.0, 1.0, 0.1, 0.01, 0.0], ascii_only=True)
    '#*=:_ '
    """
    if width < 1 or not 0.0 < decades < math.inf:
        raise ValueError(f"a sparkline needs width >= 1 and finite decades > 0, got {width} and {decades}.")
    numbers = [float(value) for value in values]
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ValueError(f"a sparkline needs at least one number, all of them finite, got {numbers}.")
    logs = sorted((math.log10(number) for number in numbers if number > 0.0), reverse=True)
    bars = ASCII if ascii_only else BLOCKS
    return "".join(
        _bar(fmean(group) - logs[0], decades, bars) if group else " " for group in _groups(logs, len(numbers), width)
    )


def spectrum_table(spectrum: Spectrum, *, ascii_only: bool = False) -> str:
    """The measures of both spectra side by side, a sparkline of each, and `few_examples` where that applies.

    >>> import torch
    >>> covariance, correlation = torch.tensor([9.0, 0.9, 0.09, 0.0]), torch.tensor([1.5, 1.0, 0.5, 0.0])
    >>> print(spectrum_table(Spectrum(100, num_dead=1, covariance=covariance, correlation=correlation)))
    N = 100 examples, d = 4, dead dimensions: 1
                         covariance  correlation
    effective rank             1.42         2.75
    participation ratio        1.22         2.57
    dimensions for 90 %           1            3
    dimensions for 99 %           2            3
    spectra, largest to smallest; a step of height is half a decade, a blank is 0
    covariance   |█▇▅ |
    correlation  |███ |
    """
    d, values = len(spectrum.covariance), spectrum.summary()
    cells = [
        (label, f"{values[f'covariance_{name}']:{form}}", f"{values[f'correlation_{name}']:{form}}")
        for label, name, form in MEASURES
    ]
    lines = [f"N = {spectrum.num_examples:,} examples, d = {d:,}, dead dimensions: {spectrum.num_dead:,}"]
    lines += [f"{label:19}{left:>12}{right:>13}" for label, left, right in [("", "covariance", "correlation"), *cells]]
    lines += [
        "spectra, largest to smallest; a step of height is half a decade, a blank is 0",
        f"covariance   |{sparkline(spectrum.covariance, ascii_only=ascii_only)}|",
        f"correlation  |{sparkline(spectrum.correlation, ascii_only=ascii_only)}|",
    ]
    warning = few_examples(spectrum.num_examples, d)
    return "\n".join([*lines, warning] if warning else lines)


def few_examples(num_examples: int, num_features: int) -> str:
    """How far counts of dimensions can be trusted, in a sentence; empty from 5 examples a dimension on.

    No rank is above min(d, N - 1). Of N examples of white noise, of which all dimensions count alike, the participation
    ratio of the correlation is about `d n / (n + d - 1)` with n = N - 1, because the mean squared correlation of two
    independent Gaussian dimensions is 1 / n. At N = 5 d that is five sixths of d.

    >>> few_examples(300, 128)  # doctest: +NORMALIZE_WHITESPACE
    'Few examples: 300 for d = 128. Ranks are at most min(d, N - 1) = 128, and white noise has a participation ratio
    of about 90; use 640 or more.'
    """
    if num_examples >= ENOUGH * num_features:
        return ""
    n = max(num_examples - 1, 0)
    white = num_features * n / (n + num_features - 1) if n else 0.0
    return (
        f"Few examples: {num_examples:,} for d = {num_features:,}. Ranks are at most min(d, N - 1) = "
        f"{min(num_features, n):,}, and white noise has a participation ratio of about {white:,.0f}; "
        f"use {ENOUGH * num_features:,} or more."
    )


def _groups(logs: list[float], num_values: int, width: int) -> list[list[float]]:
    """At most `width` groups of neighbours among `num_values` places, of which `logs` fill the first."""
    columns = min(num_values, width)
    edges = [num_values * column // columns for column in range(columns + 1)]
    return [logs[start:end] for start, end in pairwise(edges)]


def _bar(log: float, decades: float, bars: str) -> str:
    """The bar of a value that is `10^log` of the largest; log <= 0."""
    height = math.floor(len(bars) * (1.0 + log / decades) + 1e-6)  # so that rounding moves no value over an edge
    return bars[min(max(height, 0), len(bars) - 1)]
