"""The server's side, between the phases: figure 4 of Bonawitz et al. 2017.

It passes messages on, and after the last phase takes the masks off the sum. It holds nothing that clients keep secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from decollapse.secure import shamir
from decollapse.secure.client import pair_key
from decollapse.secure.encoding import Layout, Words
from decollapse.secure.keys import SECRET_BYTES, add_mask, public_key
from decollapse.secure.messages import MaskedInput, ProtocolError, PublicKeys, SealedShares, Session, Unmasking


def key_list(session: Session, advertised: Sequence[PublicKeys]) -> tuple[PublicKeys, ...]:
    """After phase 0: what everybody is sent. The clients in it are the paper's U1."""
    _check_enough(session, len(advertised), "sent keys")
    return tuple(sorted(advertised, key=lambda keys: keys.client))


def sharers(session: Session, shared: Sequence[SealedShares]) -> tuple[int, ...]:
    """After phase 1: who has sent shares, the paper's U2; with these inputs are masked."""
    _check_enough(session, len(shared), "sent shares of their keys")
    return tuple(sorted(shares.client for shares in shared))


def inbox(client: int, shared: Sequence[SealedShares]) -> dict[int, bytes]:
    """What was sealed for one client, by sender."""
    return {shares.client: shares.sealed[client] for shares in shared}


def survivors(session: Session, masked: Sequence[MaskedInput]) -> tuple[int, ...]:
    """After phase 2: whose input has come, the paper's U3; the sum is over these.

    Raises:
        ProtocolError: too few came, or their inputs are not alike.
    """
    _check_enough(session, len(masked), "sent their input")
    first = masked[0]
    for other in masked:
        if other.layout != first.layout or len(other.words) != first.layout.num_words:
            raise ProtocolError(
                f"clients {first.client} and {other.client} sent inputs of different names, shapes or dtypes, which do "
                "not add up; all must run the same model and settings."
            )
    return tuple(sorted(each.client for each in masked))


def unmasked(
    session: Session,
    everyone: Sequence[PublicKeys],
    sharing: Sequence[int],
    masked: Sequence[MaskedInput],
    told: Sequence[Unmasking],
) -> tuple[Words, Layout]:
    """After phase 4: the sum of the survivors' inputs, modulo 2^64.

    `sum_u x_u = sum_u y_u - sum_u PRG(b_u) - sum over the pairs of which one dropped out of its mask with its sign`

    Raises:
        ProtocolError: too few told their shares, or these do not give a key that was advertised.
    """
    _check_enough(session, len(told), "helped to unmask")
    present = survivors(session, masked)
    told = sorted(told, key=lambda each: each.client)[: session.threshold]
    dropped = sorted(set(sharing) - set(present))
    for each in told:
        if each.self_masks.keys() != set(present) or each.mask_keys.keys() != set(dropped):
            raise ProtocolError(f"client {each.client} told other shares than it was asked for.")
    factors = shamir.weights([session.share_number(each.client) for each in told])
    total = masked[0].words.copy()
    for other in masked[1:]:
        total += other.words
    public = {keys.client: keys for keys in everyone}
    for client in present:
        shares = {session.share_number(each.client): each.self_masks[client] for each in told}
        add_mask(total, _secret(shares, factors, client), sign=-1)
    for client in dropped:
        shares = {session.share_number(each.client): each.mask_keys[client] for each in told}
        private = _secret(shares, factors, client)
        if public_key(private) != public[client].mask:
            raise ProtocolError(f"the shares that were told of client {client} do not give the key it advertised.")
        for survivor in present:
            sign = 1 if client > survivor else -1  # as the survivor added it
            add_mask(total, pair_key(private, public[survivor], client, session), sign=-sign)
    return total, masked[0].layout


def _secret(shares: Mapping[int, int], factors: Mapping[int, int], client: int) -> bytes:
    secret = shamir.combine(shares, factors)
    if secret >= 2 ** (8 * SECRET_BYTES):
        raise ProtocolError(f"the shares that were told of client {client} are of no secret.")
    return secret.to_bytes(SECRET_BYTES)


def _check_enough(session: Session, came: int, what: str) -> None:
    if came < session.threshold:
        raise ProtocolError(
            f"{came} of {len(session.clients)} clients {what}, and the sum needs {session.threshold}; nothing was "
            "unmasked. Run the round again, or lower the threshold."
        )
