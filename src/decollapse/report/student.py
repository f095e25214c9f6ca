"""Student's t distribution with a whole number of degrees of freedom, in its closed form.

M. Abramowitz and I. A. Stegun, Handbook of Mathematical Functions, 1964, equations 26.7.3 and 26.7.4.
"""

from __future__ import annotations

import math


def two_sided_p(t: float, df: int) -> float:
    """The probability that a Student's t variable is at least as far from 0 as `t`.

    Args:
        t: any number, infinity included.
        df: degrees of freedom, >= 1.

    Raises:
        ValueError: `df` is below 1.

    >>> round(two_sided_p(1.0, 1), 12)
    0.5
    """
    _check(df)
    # Rounding takes the largest values a little over 1.
    return max(0.0, 1.0 - _coverage(math.atan(abs(t) / math.sqrt(df)), df))


def critical_value(confidence: float, df: int) -> float:
    """How far from 0 a Student's t variable stays with probability `confidence`.

    Args:
        confidence: above 0, below 1; half of what is left lies in each tail.
        df: degrees of freedom, >= 1.

    Raises:
        ValueError: `confidence` is not between 0 and 1, or `df` is below 1.

    >>> round(critical_value(0.95, 2), 6)
    4.302653
    """
    _check(df)
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence is above 0 and below 1, such as 0.95; got {confidence}.")
    low, high = 0.0, math.pi / 2
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _coverage(middle, df) < confidence else (low, middle)
    return math.sqrt(df) * math.tan(low)


def _coverage(angle: float, df: int) -> float:
    """P(|T| <= sqrt(df) tan(angle)), for an angle from 0 to pi / 2.

    Even df:    sin (1 + 1/2 cos^2 + (1 3)/(2 4) cos^4 + ... up to cos^(df - 2)).
    Odd df:     2/pi (angle + sin (cos + 2/3 cos^3 + ... up to cos^(df - 2))).
    """
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = df % 2
    term = cosine if odd else 1.0
    terms = []
    for power in range(odd, df, 2):
        terms.append(term)
        term *= cosine * cosine * (power + 1) / (power + 2)
    series = sine * math.fsum(terms)
    return 2 / math.pi * (angle + series) if odd else series


def _check(df: int) -> None:
    if df < 1:
        raise ValueError(f"Student's t has at least 1 degree of freedom, got {df}.")
