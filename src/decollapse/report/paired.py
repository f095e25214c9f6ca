"""What one setting gains over another where both had the same seeds: differences within pairs, and how sure they are.

Runs with the same seed share split, cohorts and initial weights, and much of their luck with them. A difference within
such a pair is free of that luck, so that settings whose means ± standard deviations overlap can differ beyond doubt.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from decollapse.report.student import critical_value, two_sided_p

CONFIDENCE = 0.95
MAX_SIGN_FLIPS = 16
"""Pairs for which all 2^n signs are tried; more take the t-test alone."""


@dataclass(frozen=True)
class Paired:
    """The differences of `num` pairs, summarised.

    Attributes:
        mean: of the differences.
        std: their sample standard deviation (divided by `num - 1`), or None for a single pair.
        interval: `mean ± t std / sqrt(num)`, t the two-sided quantile of Student's t with `num - 1` degrees of freedom;
            None for a single pair. It holds as far as the differences are like draws from a normal distribution.
        confidence: of the interval.
        p_value: two-sided, of the paired t-test that the mean is 0; None where the differences do not vary.
        p_sign_flip: the share of all 2^num choices of signs that bring the mean as far from 0; exact, and never below
            2^(1 - num): 0.25 for three pairs, 0.0625 for five. None above 16 pairs.
        wins: pairs whose difference is for the better.
        ties: pairs without a difference.
        losses: pairs whose difference is for the worse.
    """

    mean: float
    std: float | None
    interval: tuple[float, float] | None
    confidence: float
    p_value: float | None
    p_sign_flip: float | None
    wins: int
    ties: int
    losses: int

    @classmethod
    def of(
        cls, differences: Sequence[float], *, confidence: float = CONFIDENCE, higher_is_better: bool = True
    ) -> Paired | None:
        """Summarise the differences of pairs; None when there are none.

        Args:
            differences: finite, one a pair: a setting's number minus the number of the one it is compared with.
            confidence: of the interval, above 0, below 1.
            higher_is_better: whether a win is a difference above 0.

        Raises:
            ValueError: `confidence` is out of range.

        >>> found = Paired.of([1.0, 2.0, 3.0])
        >>> found.mean, found.std, found.wins
        (2.0, 1.0, 3)
        >>> [round(end, 3) for end in found.interval], round(found.p_value, 4), found.p_sign_flip
        ([-0.484, 4.484], 0.0742, 0.25)
        """
        if not differences:
            return None
        num, mean = len(differences), statistics.fmean(differences)
        std = statistics.stdev(differences) if num > 1 else None
        error = None if std is None else std / math.sqrt(num)
        margin = None if error is None else error * critical_value(confidence, num - 1)
        above, below = sum(value > 0 for value in differences), sum(value < 0 for value in differences)
        return cls(
            mean=mean,
            std=std,
            interval=None if margin is None else (mean - margin, mean + margin),
            confidence=confidence,
            p_value=two_sided_p(mean / error, num - 1) if error else None,
            p_sign_flip=_sign_flips(differences) if num <= MAX_SIGN_FLIPS else None,
            wins=above if higher_is_better else below,
            ties=num - above - below,
            losses=below if higher_is_better else above,
        )

    @property
    def num(self) -> int:
        """How many pairs there are."""
        return self.wins + self.ties + self.losses


def _sign_flips(differences: Sequence[float]) -> float:
    """The share of all choices of signs whose sum is as far from 0 as the sum as it is."""
    sums = np.zeros(1)
    for value in differences:
        sums = np.concatenate([sums + value, sums - value])
    # The first has no sign flipped. Sums that are equal but for rounding are equal.
    tolerance = 1e-12 * sum(map(abs, differences))
    return float(np.mean(np.abs(sums) >= abs(sums[0]) - tolerance))
