"""The client's side, phase by phase: figure 4 of Bonawitz et al. 2017.

A client keeps one root secret a run, from which the secrets of every sum are derived, and a note of what it has sent.
Everything else comes with the request, so that a fresh process can answer each one. Functions return the next note
beside the message: it must be kept before the message is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

from decollapse.secure import shamir
from decollapse.secure.encoding import Layout, Words
from decollapse.secure.keys import add_mask, agreed, derived, new_secret, opened, public_key, sealed
from decollapse.secure.messages import MaskedInput, ProtocolError, PublicKeys, SealedShares, Session, Unmasking

SHARE_BYTES = 33
"""Of a share of 32 bytes, in the field of a prime above 2^256."""


@dataclass(frozen=True)
class ClientSecrets:
    """What one client keeps during a run, and keeps to itself.

    Attributes:
        client: its number.
        run: the run it is for.
        root: its secret.
        masked: for each sum to which it has sent an input, a digest of that and of the clients it was masked with.
        unmasked: for each sum that it has helped to unmask, the clients it was told have sent their input.
    """

    client: int
    run: bytes
    root: bytes = field(repr=False)
    masked: Mapping[int, bytes] = field(default_factory=dict)
    unmasked: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def new(cls, client: int, run: bytes) -> ClientSecrets:
        """For a run that begins, with a secret from the operating system."""
        return cls(client, run, new_secret())

    def cipher_key(self, session: Session) -> bytes:
        """c^SK of the sum."""
        return derived(self.root, session.purpose("private cipher key"))

    def mask_key(self, session: Session) -> bytes:
        """s^SK of the sum."""
        return derived(self.root, session.purpose("private mask key"))

    def self_mask(self, session: Session) -> bytes:
        """b of the sum."""
        return derived(self.root, session.purpose("self mask"))


def advertise(secrets: ClientSecrets, session: Session) -> PublicKeys:
    """Phase 0: the public keys of this sum."""
    _check_member(secrets, session)
    cipher, mask = public_key(secrets.cipher_key(session)), public_key(secrets.mask_key(session))
    return PublicKeys(secrets.client, cipher, mask)


def share(secrets: ClientSecrets, session: Session, everyone: Sequence[PublicKeys]) -> SealedShares:
    """Phase 1: a share of both secrets for each client that has sent its keys, this one included.

    Raises:
        ProtocolError: fewer than the threshold have, or this client's own keys are not there as it sent them.
    """
    _check_keys(secrets, session, everyone)
    parts = [
        shamir.split(int.from_bytes(secret), threshold=session.threshold, num_shares=len(session.clients))
        for secret in (secrets.self_mask(session), secrets.mask_key(session))
    ]
    letters = {}
    for other in everyone:
        number = session.share_number(other.client) - 1
        message = b"".join(part[number].to_bytes(SHARE_BYTES) for part in parts)
        purpose = session.purpose("shares", secrets.client, other.client)
        letters[other.client] = sealed(message, agreed(secrets.cipher_key(session), other.cipher, purpose), purpose)
    return SealedShares(secrets.client, letters)


def mask(
    secrets: ClientSecrets,
    session: Session,
    everyone: Sequence[PublicKeys],
    sharers: Sequence[int],
    words: Words,
    layout: Layout,
) -> tuple[MaskedInput, ClientSecrets]:
    """Phase 2: the input, masked for itself and with every other client that has sent shares.

    Raises:
        ProtocolError: too few have, this client has not, or it has already sent another input to this sum, whose
            difference to this one the server would see.
    """
    _check_keys(secrets, session, everyone)
    _check_list(secrets, session, sharers, {keys.client for keys in everyone})
    digest = sha256(repr((tuple(sharers), layout)).encode() + words.tobytes()).digest()
    if secrets.masked.get(session.number, digest) != digest:
        raise ProtocolError(
            f"client {secrets.client} has sent another input to sum {session.number}; begin a new sum for this one."
        )
    masked = words.copy()
    add_mask(masked, secrets.self_mask(session))
    private = secrets.mask_key(session)
    for other in everyone:
        if other.client in sharers and other.client != secrets.client:
            sign = 1 if other.client > secrets.client else -1
            add_mask(masked, pair_key(private, other, secrets.client, session), sign=sign)
    noted = replace(secrets, masked={**secrets.masked, session.number: digest})
    return MaskedInput(secrets.client, layout, masked), noted


def unmask(
    secrets: ClientSecrets,
    session: Session,
    everyone: Sequence[PublicKeys],
    inbox: Mapping[int, bytes],
    survivors: Sequence[int],
) -> tuple[Unmasking, ClientSecrets]:
    """Phase 4: shares of the self mask of each survivor, and of the mask key of each client that dropped out.

    One kind for each client, and one list of survivors a sum: otherwise the server could take off all masks of one.

    Args:
        secrets: of this client.
        session: the sum.
        everyone: as in phase 1.
        inbox: what each client that has sent shares sealed for this one.
        survivors: the clients whose masked input has come, ascending.

    Raises:
        ProtocolError: fewer than the threshold survive, this client has not sent an input or is not said to have, or
            it was told of other survivors before.
        SealBrokenError: a share was changed on its way.
    """
    _check_list(secrets, session, survivors, inbox.keys())
    if session.number not in secrets.masked:
        raise ProtocolError(f"client {secrets.client} has sent no input to sum {session.number}, and unmasks nothing.")
    if secrets.unmasked.get(session.number, tuple(survivors)) != tuple(survivors):
        raise ProtocolError(
            f"client {secrets.client} was told of other survivors of sum {session.number} before; it tells no more, "
            "for both secrets of a client together would show its input."
        )
    self_masks, mask_keys = {}, {}
    public = {keys.client: keys.cipher for keys in everyone}
    for sender, letter in inbox.items():
        purpose = session.purpose("shares", sender, secrets.client)
        message = opened(letter, agreed(secrets.cipher_key(session), public[sender], purpose), purpose)
        if sender in survivors:
            self_masks[sender] = int.from_bytes(message[:SHARE_BYTES])
        else:
            mask_keys[sender] = int.from_bytes(message[SHARE_BYTES:])
    noted = replace(secrets, unmasked={**secrets.unmasked, session.number: tuple(survivors)})
    return Unmasking(secrets.client, self_masks, mask_keys), noted


def pair_key(private: bytes, other: PublicKeys, client: int, session: Session) -> bytes:
    """s_uv: the key of the mask that two clients have in common."""
    return agreed(private, other.mask, session.purpose("pair mask", *sorted((client, other.client))))


def _check_member(secrets: ClientSecrets, session: Session) -> None:
    if secrets.run != session.run or secrets.client not in session.clients:
        raise ProtocolError(f"client {secrets.client} takes no part in sum {session.number} of this run.")


def _check_keys(secrets: ClientSecrets, session: Session, everyone: Sequence[PublicKeys]) -> None:
    """Raise unless these are keys of members of the sum, one's own among them."""
    own = advertise(secrets, session)
    if own not in everyone:
        raise ProtocolError(f"the keys of client {secrets.client} are not in the list as it sent them.")
    _check_list(secrets, session, [keys.client for keys in everyone], session.clients)
    if len({keys.mask for keys in everyone} | {keys.cipher for keys in everyone}) < 2 * len(everyone):
        raise ProtocolError("two of the public keys are the same; every client needs its own.")


def _check_list(secrets: ClientSecrets, session: Session, listed: Sequence[int], among: Iterable[int]) -> None:
    """Raise unless `listed` are enough different clients out of `among`, this one with them."""
    _check_member(secrets, session)
    if sorted(set(listed)) != list(listed) or not set(listed) <= set(among):
        raise ProtocolError(f"a list of clients of sum {session.number} names one twice or who was not there before.")
    if secrets.client not in listed:
        raise ProtocolError(f"client {secrets.client} is left out of sum {session.number}, and goes on no further.")
    if len(listed) < session.threshold:
        raise ProtocolError(f"sum {session.number} has {len(listed)} clients left, and needs {session.threshold}.")
