"""A sum is right whoever drops out when, and each side refuses what would show a summand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from decollapse.secure import server
from decollapse.secure.client import ClientSecrets, advertise, mask, share, unmask
from decollapse.secure.keys import SealBrokenError
from decollapse.secure.messages import ProtocolError, PublicKeys, Session
from secure.protocol import RUN, Transcript, layout_of, plain_sum, random_inputs, secure_sum, session_of


def test_the_sum_of_two_by_hand() -> None:
    session = session_of(2)
    inputs = {0: np.array([1, 2**64 - 1], np.uint64), 1: np.array([5, 3], np.uint64)}
    assert secure_sum(session, inputs).total.tolist() == [6, 2]


@pytest.mark.parametrize("num_clients", [2, 3, 10, 50])
def test_it_is_the_plain_sum(num_clients: int) -> None:
    session = session_of(num_clients)
    inputs = random_inputs(session)
    assert np.array_equal(secure_sum(session, inputs).total, plain_sum(inputs, session.clients))


@pytest.mark.parametrize("phase", ["no_keys", "no_shares", "no_input", "no_unmasking"])
@pytest.mark.parametrize("num_clients", [4, 10, 50])
def test_as_many_as_the_threshold_allows_may_drop_out_of_a_phase(phase: str, num_clients: int) -> None:
    session = session_of(num_clients)
    gone = session.clients[:: num_clients // (num_clients - session.threshold)][: num_clients - session.threshold]
    inputs = random_inputs(session)
    found = secure_sum(session, inputs, **{phase: gone})
    present = (
        session.clients if phase == "no_unmasking" else [client for client in session.clients if client not in gone]
    )
    assert np.array_equal(found.total, plain_sum(inputs, present))


def test_clients_may_drop_out_of_every_phase_of_one_sum() -> None:
    session = session_of((3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610), threshold=7)
    inputs = random_inputs(session)
    found = secure_sum(session, inputs, no_keys=(3,), no_shares=(8, 610), no_input=(13,), no_unmasking=(5,))
    assert np.array_equal(found.total, plain_sum(inputs, (5, 21, 34, 55, 89, 144, 233, 377)))


@pytest.mark.parametrize(
    ("phase", "said"),
    [
        ("no_keys", "2 of 5 clients sent keys, and the sum needs 3"),
        ("no_shares", "2 of 5 clients sent shares of their keys, and the sum needs 3"),
        ("no_input", "2 of 5 clients sent their input, and the sum needs 3"),
        ("no_unmasking", "2 of 5 clients helped to unmask, and the sum needs 3"),
    ],
)
def test_below_the_threshold_the_sum_is_given_up_in_one_sentence(phase: str, said: str) -> None:
    session = session_of(5, threshold=3)
    with pytest.raises(ProtocolError, match=said):
        secure_sum(session, random_inputs(session), **{phase: (0, 2, 4)})


@pytest.mark.parametrize("threshold", [0, 2, 5])
def test_a_threshold_of_half_or_less_or_more_than_all_is_refused(threshold: int) -> None:
    with pytest.raises(ValueError, match="more than half of 4 clients"):
        Session(RUN, 0, (0, 1, 2, 3), threshold)


@pytest.mark.parametrize("clients", [(0,), (1, 0), (0, 0)])
def test_a_sum_is_over_different_clients_in_order(clients: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="ascending order"):
        Session(RUN, 0, clients, 1)


def test_inputs_of_different_layouts_are_not_added() -> None:
    session = session_of(3)
    inputs = random_inputs(session) | {2: np.zeros(4, np.uint64)}
    with pytest.raises(ProtocolError, match="clients 0 and 2 sent inputs of different names"):
        secure_sum(session, inputs)


def test_shares_that_do_not_give_the_advertised_key_are_noticed() -> None:
    session = session_of(4)
    found = secure_sum(session, random_inputs(session), no_input=(1,))
    wrong = (replace(found.told[0], mask_keys={1: 7}), *found.told[1:])
    with pytest.raises(ProtocolError, match="of client 1 "):
        server.unmasked(session, found.keys, session.clients, found.masked, wrong)


# What a client refuses


class Cohort:
    """Four clients after phase 1, and client 0 after phase 2."""

    def __init__(self) -> None:
        self.session = session_of(4)
        self.secrets = {client: ClientSecrets.new(client, RUN) for client in self.session.clients}
        self.keys = tuple(advertise(secrets, self.session) for secrets in self.secrets.values())
        self.shared = [share(secrets, self.session, self.keys) for secrets in self.secrets.values()]
        self.inbox = server.inbox(0, self.shared)
        self.words = np.arange(3, dtype=np.uint64)
        _, self.masked = self.mask(self.secrets[0], (0, 1, 2, 3), self.words)

    def mask(self, secrets: ClientSecrets, sharers: tuple[int, ...], words: np.ndarray) -> tuple[object, ClientSecrets]:
        return mask(secrets, self.session, self.keys, sharers, words, layout_of(words))

    def unmask(self, secrets: ClientSecrets, survivors: tuple[int, ...]) -> tuple[object, ClientSecrets]:
        return unmask(secrets, self.session, self.keys, self.inbox, survivors)


@pytest.fixture
def cohort() -> Cohort:
    return Cohort()


def test_of_each_client_one_kind_of_share_is_told(cohort: Cohort) -> None:
    told, _ = cohort.unmask(cohort.masked, (0, 1, 3))
    assert set(told.self_masks) == {0, 1, 3}
    assert set(told.mask_keys) == {2}


@pytest.mark.parametrize("other", [(0, 1, 2), (0, 1, 2, 3), (0, 2, 3)])
def test_the_other_kind_is_never_told_afterwards(cohort: Cohort, other: tuple[int, ...]) -> None:
    first, after = cohort.unmask(cohort.masked, (0, 1, 3))
    again, _ = cohort.unmask(after, (0, 1, 3))
    assert again == first
    with pytest.raises(ProtocolError, match="told of other survivors"):
        cohort.unmask(after, other)


@pytest.mark.parametrize(
    ("survivors", "said"),
    [
        ((0, 1), "has 2 clients left, and needs 3"),
        ((1, 2, 3), "client 0 is left out"),
        ((0, 1, 9), "who was not there"),
        ((0, 1, 1, 2), "names one twice"),
    ],
)
def test_a_list_of_survivors_that_cannot_be_is_refused(cohort: Cohort, survivors: tuple[int, ...], said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        cohort.unmask(cohort.masked, survivors)


def test_who_has_sent_nothing_unmasks_nothing(cohort: Cohort) -> None:
    with pytest.raises(ProtocolError, match="has sent no input"):
        cohort.unmask(cohort.secrets[0], (0, 1, 2))


def test_a_second_input_or_other_partners_under_the_same_masks_are_refused(cohort: Cohort) -> None:
    again, _ = cohort.mask(cohort.masked, (0, 1, 2, 3), cohort.words)  # asked again, the answer is the same
    assert np.array_equal(again.words, cohort.mask(cohort.secrets[0], (0, 1, 2, 3), cohort.words)[0].words)
    with pytest.raises(ProtocolError, match="has sent another input"):
        cohort.mask(cohort.masked, (0, 1, 2, 3), cohort.words + np.uint64(1))
    with pytest.raises(ProtocolError, match="has sent another input"):
        cohort.mask(cohort.masked, (0, 1, 2), cohort.words)


@pytest.mark.parametrize("sharers", [(0, 1), (1, 2, 3)])
def test_too_few_partners_are_refused(cohort: Cohort, sharers: tuple[int, ...]) -> None:
    with pytest.raises(ProtocolError, match="2 clients left|left out"):
        cohort.mask(cohort.secrets[0], sharers, cohort.words)


def test_keys_that_are_not_ones_own_or_twice_the_same_are_refused(cohort: Cohort) -> None:
    own, *others = cohort.keys
    changed = (PublicKeys(0, own.mask, own.cipher), *others)
    with pytest.raises(ProtocolError, match="keys of client 0 are not in the list"):
        share(cohort.secrets[0], cohort.session, changed)
    twice = (own, others[0], replace(others[1], mask=others[0].mask), others[2])
    with pytest.raises(ProtocolError, match="are the same"):
        share(cohort.secrets[0], cohort.session, twice)


def test_too_few_keys_are_refused(cohort: Cohort) -> None:
    with pytest.raises(ProtocolError, match="has 2 clients left, and needs 3"):
        share(cohort.secrets[0], cohort.session, cohort.keys[:2])


def test_another_run_is_none_of_its_business(cohort: Cohort) -> None:
    with pytest.raises(ProtocolError, match="takes no part"):
        advertise(cohort.secrets[0], replace(cohort.session, run=b"other"))


def test_a_share_that_was_changed_or_is_for_another_client_does_not_open(cohort: Cohort) -> None:
    cohort.inbox = server.inbox(1, cohort.shared)
    with pytest.raises(SealBrokenError):
        cohort.unmask(cohort.masked, (0, 1, 2))


def test_secrets_do_not_show_in_print(cohort: Cohort) -> None:
    assert cohort.secrets[0].root.hex()[:16] not in repr(cohort.secrets[0])
    assert "root" not in repr(cohort.secrets[0])


def test_what_is_told_for_one_sum_says_nothing_of_the_next() -> None:
    secrets = {client: ClientSecrets.new(client, RUN) for client in range(4)}
    sums: list[Transcript] = []
    for number in (0, 1):
        session = session_of(4, number=number)
        sums.append(secure_sum(session, random_inputs(session), no_input=(1,), secrets=secrets))
    first, second = ({keys.client: (keys.cipher, keys.mask) for keys in found.keys} for found in sums)
    assert all(first[client][kind] != second[client][kind] for client in first for kind in (0, 1))
    assert not set(sums[0].told[0].mask_keys.values()) & set(sums[1].told[0].mask_keys.values())
    assert secrets[1].mask_key(sums[0].session) != secrets[1].mask_key(sums[1].session)
