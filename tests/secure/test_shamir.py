from __future__ import annotations

import random
from collections import Counter
from itertools import combinations, product

import pytest

from decollapse.secure import shamir
from decollapse.secure.shamir import PRIME, combine, split, weights


def numbered(shares: tuple[int, ...]) -> dict[int, int]:
    return dict(enumerate(shares, start=1))


def test_a_line_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decollapse.secure.shamir.secrets.randbelow", lambda prime: 3)
    assert split(5, threshold=2, num_shares=3, prime=11) == (8, 0, 3)  # 5 + 3 x modulo 11


@pytest.mark.parametrize(("threshold", "num_shares"), [(1, 1), (1, 3), (2, 3), (3, 5), (5, 5)])
def test_any_threshold_of_the_shares_give_the_secret(threshold: int, num_shares: int) -> None:
    secret = 2**256 - 1
    shares = numbered(split(secret, threshold=threshold, num_shares=num_shares))
    for chosen in combinations(shares, threshold):
        assert combine(shares, weights(chosen)) == secret


def test_one_share_less_says_nothing() -> None:
    # Over all polynomials modulo 7, two shares of a threshold of three are each pair once, whatever the secret.
    def seen(secret: int) -> Counter[tuple[int, int]]:
        found: Counter[tuple[int, int]] = Counter()
        for a, b in product(range(7), repeat=2):
            shares = [shamir._value([secret, a, b], x, 7) for x in (2, 5)]
            found[shares[0], shares[1]] += 1
        return found

    assert seen(0) == seen(3) == Counter(dict.fromkeys(product(range(7), repeat=2), 1))


def test_coefficients_are_drawn_anew_each_time() -> None:
    assert split(1, threshold=2, num_shares=2) != split(1, threshold=2, num_shares=2)


def test_the_prime_is_one_and_the_smallest_with_room_for_32_bytes() -> None:
    def prime(n: int) -> bool:  # Miller and Rabin, 30 rounds
        odd, twos = n - 1, 0
        while odd % 2 == 0:
            odd, twos = odd // 2, twos + 1
        generator = random.Random(0)
        for _ in range(30):
            x = pow(generator.randrange(2, n - 1), odd, n)
            if x not in (1, n - 1) and not any((x := x * x % n) == n - 1 for _ in range(twos - 1)):
                return False
        return True

    assert prime(PRIME)
    assert not any(prime(n) for n in range(2**256 + 1, PRIME, 2))


@pytest.mark.parametrize(
    ("secret", "threshold", "said"),
    [(PRIME, 2, "secret is from"), (-1, 2, "secret is from"), (1, 4, "threshold"), (1, 0, "threshold")],
)
def test_what_cannot_be_shared_is_refused(secret: int, threshold: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        split(secret, threshold=threshold, num_shares=3)
