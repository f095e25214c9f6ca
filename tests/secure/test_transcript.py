"""What a curious server has, with colluding clients, does not depend on a summand beyond the sum."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from decollapse.secure import shamir
from decollapse.secure.client import ClientSecrets, pair_key
from decollapse.secure.encoding import Words
from decollapse.secure.keys import add_mask
from secure.protocol import RUN, Transcript, plain_sum, random_inputs, secure_sum, session_of

CLIENTS, CURIOUS, DROPPED, HONEST = 6, (0, 5), 3, (1, 2, 4)
RUNS, LENGTH = 60, 64
SMALL = {client: np.full(LENGTH, client, np.uint64) for client in range(CLIENTS)}
LARGE = SMALL | {1: SMALL[1] + np.uint64(2**60), 2: SMALL[2] - np.uint64(2**60)}  # other summands, the same sum


def all_that_can_be_taken_off(seen: Transcript, secrets: dict[int, ClientSecrets]) -> dict[int, Words]:
    """The honest survivors' inputs without every mask that the server can compute with the curious clients' help."""
    session = seen.session
    keys = {each.client: each for each in seen.keys}
    told = seen.told[: session.threshold]
    factors = shamir.weights([session.share_number(each.client) for each in told])

    def secret(kind: str, client: int) -> bytes:
        shares = {session.share_number(each.client): getattr(each, kind)[client] for each in told}
        return shamir.combine(shares, factors).to_bytes(32)

    known = {client: secrets[client].mask_key(session) for client in CURIOUS} | {DROPPED: secret("mask_keys", DROPPED)}
    left = {}
    for message in seen.masked:
        if message.client in HONEST:
            words = message.words.copy()
            add_mask(words, secret("self_masks", message.client), sign=-1)
            for other, private in known.items():
                sign = 1 if other > message.client else -1
                add_mask(words, pair_key(private, keys[message.client], other, session), sign=-sign)
            left[message.client] = words
    return left


@cache
def views(large: bool) -> tuple[dict[int, Words], ...]:
    session = session_of(CLIENTS)
    found = []
    for _ in range(RUNS):
        secrets = {client: ClientSecrets.new(client, RUN) for client in session.clients}
        seen = secure_sum(session, LARGE if large else SMALL, no_input=(DROPPED,), secrets=secrets)
        found.append(all_that_can_be_taken_off(seen, secrets))
    return tuple(found)


def ones(words: Words) -> np.ndarray:
    """The share of ones in each of the 64 bits."""
    return np.unpackbits(words.view(np.uint8)).reshape(-1, 64).mean(axis=0)


@pytest.mark.parametrize("large", [False, True])
def test_what_is_left_of_the_honest_adds_up_to_their_sum(large: bool) -> None:
    inputs = LARGE if large else SMALL
    for view in views(large):
        assert np.array_equal(plain_sum(view, HONEST), plain_sum(inputs, HONEST))
    assert np.array_equal(plain_sum(SMALL, HONEST), plain_sum(LARGE, HONEST))


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("clients", [(1,), (2,), (4,), (1, 2), (1, 4), (2, 4)])
def test_any_of_them_short_of_all_are_uniform_whatever_was_sent(large: bool, clients: tuple[int, ...]) -> None:
    words = np.concatenate([plain_sum(view, clients) for view in views(large)])
    assert np.abs(ones(words) - 0.5).max() < 5 * 0.5 / np.sqrt(len(words))
    assert len(np.unique(words)) == len(words)


def test_words_of_one_client_and_of_two_runs_are_independent() -> None:
    first = np.stack([view[1].astype(np.float64) for view in views(False)]) / 2.0**64
    of_runs = np.corrcoef(first)[np.triu_indices(RUNS, 1)]
    of_words = np.corrcoef(first.T)[np.triu_indices(LENGTH, 1)]
    assert np.abs(of_runs).max() < 5.5 / np.sqrt(LENGTH)
    assert np.abs(of_words).max() < 5.5 / np.sqrt(RUNS)


def test_with_the_same_secrets_another_input_moves_the_view_by_its_difference_alone() -> None:
    # So each view of one input is the view of the other under other masks, which are as likely: one-time pads.
    session = session_of(CLIENTS)
    secrets = {client: ClientSecrets.new(client, RUN) for client in session.clients}
    one, other = (secure_sum(session, inputs, secrets=secrets) for inputs in (SMALL, LARGE))
    for before, after in zip(one.masked, other.masked, strict=True):
        client = before.client
        assert np.array_equal(after.words - before.words, LARGE[client] - SMALL[client])
    assert np.array_equal(one.total, other.total)


def test_an_input_that_comes_after_its_client_was_given_up_stays_masked() -> None:
    # Then the server knows the client's mask key, from which all its pairs' masks follow, but not its own mask.
    session = session_of(CLIENTS)
    secrets = {client: ClientSecrets.new(client, RUN) for client in session.clients}
    inputs = {client: np.zeros(20_000, np.uint64) for client in session.clients}
    late = next(m for m in secure_sum(session, inputs, secrets=secrets).masked if m.client == DROPPED)
    seen = secure_sum(session, inputs, secrets=secrets, no_input=(DROPPED,))
    assert all(DROPPED not in told.self_masks for told in seen.told)
    words, private = late.words.copy(), secrets[DROPPED].mask_key(session)
    for other in seen.keys:
        if other.client != DROPPED:
            sign = 1 if other.client > DROPPED else -1
            add_mask(words, pair_key(private, other, DROPPED, session), sign=-sign)
    assert np.abs(ones(words) - 0.5).max() < 5 * 0.5 / np.sqrt(len(words))
    add_mask(words, secrets[DROPPED].self_mask(session), sign=-1)  # which is all that was missing
    assert not words.any()


def test_fewer_than_the_threshold_cannot_combine_their_shares() -> None:
    session = session_of(CLIENTS)
    secrets = {client: ClientSecrets.new(client, RUN) for client in session.clients}
    seen = secure_sum(session, random_inputs(session), secrets=secrets)
    secret = int.from_bytes(secrets[1].self_mask(session))
    for number, right in ((session.threshold, True), (session.threshold - 1, False)):
        told = seen.told[:number]
        shares = {session.share_number(each.client): each.self_masks[1] for each in told}
        assert (shamir.combine(shares, shamir.weights(list(shares))) == secret) is right


def test_no_secret_is_in_a_message() -> None:
    session = session_of(4)
    secrets = {client: ClientSecrets.new(client, RUN) for client in session.clients}
    seen = secure_sum(session, random_inputs(session), secrets=secrets)
    sent = b"".join(letter for shared in seen.shared for letter in shared.sealed.values())
    sent += b"".join(keys.cipher + keys.mask for keys in seen.keys)
    for client in secrets.values():
        for secret in (client.root, client.self_mask(session), client.mask_key(session), client.cipher_key(session)):
            assert secret not in sent
