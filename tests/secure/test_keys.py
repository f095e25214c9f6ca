from __future__ import annotations

import numpy as np
import pytest

from decollapse.secure import keys
from decollapse.secure.keys import SealBrokenError, add_mask, agreed, new_secret, opened, public_key, sealed
from decollapse.secure.messages import Session

A, B = bytes(range(32)), bytes(range(1, 33))


def test_the_keystream_is_rfc_8439s_and_words_are_little_endian() -> None:
    # RFC 8439, appendix A.1, test vector 1: an all-zero key and nonce.
    words = np.zeros(2, np.uint64)
    add_mask(words, bytes(32))
    assert words.astype("<u8").tobytes().hex() == "76b8e0ada0f13d90405d6ae55386bd28"


def test_public_keys_are_those_of_rfc_7748() -> None:
    # Section 6.1: Alice's.
    private = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    assert public_key(private).hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"


def test_both_sides_agree_and_another_purpose_is_another_key() -> None:
    one = agreed(A, public_key(B), "x")
    assert one == agreed(B, public_key(A), "x")
    assert one != agreed(A, public_key(B), "y")


@pytest.mark.parametrize("change", [{"run": b"other"}, {"number": 1}, {"clients": (0, 1, 3)}, {"threshold": 3}])
def test_a_purpose_names_run_sum_members_threshold_and_pair(change: dict[str, object]) -> None:
    start = {"run": b"run", "number": 0, "clients": (0, 1, 2), "threshold": 2}
    one, other = Session(**start), Session(**(start | change))  # type: ignore[arg-type]  # by name
    assert one.purpose("pair mask", 0, 1) != other.purpose("pair mask", 0, 1)
    assert one.purpose("pair mask", 0, 1) != one.purpose("pair mask", 0, 2)


@pytest.mark.parametrize("length", [1, keys.BLOCK_WORDS, 2 * keys.BLOCK_WORDS + 3])
def test_a_mask_is_taken_off_again_and_does_not_repeat(length: int) -> None:
    words = np.arange(length, dtype=np.uint64)
    add_mask(words, A)
    assert len(np.unique(words)) == length
    add_mask(words, A, sign=-1)
    assert np.array_equal(words, np.arange(length, dtype=np.uint64))


def test_a_mask_is_uniform_bit_by_bit() -> None:
    words = np.zeros(20_000, np.uint64)
    add_mask(words, A)
    ones = np.unpackbits(words.view(np.uint8)).reshape(-1, 64).mean(axis=0)
    assert np.abs(ones - 0.5).max() < 5 * 0.5 / np.sqrt(20_000)


def test_a_sealed_message_opens_for_its_key_and_purpose_alone() -> None:
    letter = sealed(b"share", A, "to 1")
    assert opened(letter, A, "to 1") == b"share"
    for key, purpose, message in ((B, "to 1", letter), (A, "to 2", letter), (A, "to 1", letter[:-1] + b"\0")):
        with pytest.raises(SealBrokenError):
            opened(message, key, purpose)


def test_the_same_message_is_never_sealed_alike() -> None:
    assert sealed(b"share", A, "p") != sealed(b"share", A, "p")


def test_secrets_are_new() -> None:
    assert new_secret() != new_secret()
