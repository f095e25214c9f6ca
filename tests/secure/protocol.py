"""One sum from end to end, with everything that a server sees of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from decollapse.secure import server
from decollapse.secure.client import ClientSecrets, advertise, mask, share, unmask
from decollapse.secure.encoding import Layout, Words
from decollapse.secure.messages import MaskedInput, PublicKeys, SealedShares, Session, Unmasking

RUN = bytes(16)


@dataclass
class Transcript:
    """What the server has seen, and what came of it."""

    session: Session
    keys: tuple[PublicKeys, ...] = ()
    shared: tuple[SealedShares, ...] = ()
    masked: tuple[MaskedInput, ...] = ()
    told: tuple[Unmasking, ...] = ()
    total: Words = field(default_factory=lambda: np.zeros(0, np.uint64))


def session_of(clients: int | tuple[int, ...], *, threshold: int | None = None, number: int = 0) -> Session:
    members = tuple(range(clients)) if isinstance(clients, int) else clients
    return Session(RUN, number, members, threshold or Session.default_threshold(len(members)))


def layout_of(words: Words) -> Layout:
    return Layout.of({"x": torch.zeros(len(words))})


def secure_sum(
    session: Session,
    inputs: Mapping[int, Words],
    *,
    no_keys: tuple[int, ...] = (),
    no_shares: tuple[int, ...] = (),
    no_input: tuple[int, ...] = (),
    no_unmasking: tuple[int, ...] = (),
    secrets: Mapping[int, ClientSecrets] | None = None,
) -> Transcript:
    """The sum of `inputs`, with clients gone from a phase on."""
    known = dict(secrets or {client: ClientSecrets.new(client, RUN) for client in session.clients})
    seen = Transcript(session)
    seen.keys = server.key_list(session, [advertise(known[c], session) for c in session.clients if c not in no_keys])
    sharing = [keys.client for keys in seen.keys if keys.client not in no_shares]
    seen.shared = tuple(share(known[client], session, seen.keys) for client in sharing)
    sharers = server.sharers(session, seen.shared)
    masked = []
    for client in sharers:
        if client not in no_input:
            words = inputs[client]
            message, known[client] = mask(known[client], session, seen.keys, sharers, words, layout_of(words))
            masked.append(message)
    seen.masked = tuple(masked)
    present = server.survivors(session, masked)
    seen.told = tuple(
        unmask(known[client], session, seen.keys, server.inbox(client, seen.shared), present)[0]
        for client in present
        if client not in no_unmasking
    )
    seen.total, _ = server.unmasked(session, seen.keys, sharers, seen.masked, seen.told)
    return seen


def random_inputs(session: Session, length: int = 5, *, seed: int = 0) -> dict[int, Words]:
    generator = np.random.default_rng(seed)
    return {client: generator.integers(0, 2**64, length, dtype=np.uint64) for client in session.clients}


def plain_sum(inputs: Mapping[int, Words], clients: Iterable[int]) -> Words:
    return np.sum([inputs[client] for client in clients], axis=0, dtype=np.uint64)
