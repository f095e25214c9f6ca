"""What server and clients send each other, and what a sum is about."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256

from decollapse.secure.encoding import Layout, Words


class ProtocolError(RuntimeError):
    """The protocol stops: too few clients are left, or a message is not what it must be."""


@dataclass(frozen=True)
class Session:
    """One sum.

    Attributes:
        run: random, of the run; no two runs have the same.
        number: of the sum in the run, no two have the same; 0, 1, 2, ...
        clients: who may take part, ascending.
        threshold: clients without whom nothing is unmasked; more than half.
    """

    run: bytes
    number: int
    clients: tuple[int, ...]
    threshold: int

    def __post_init__(self) -> None:
        if sorted(set(self.clients)) != list(self.clients) or len(self.clients) < 2:
            raise ValueError(f"a sum is over 2 or more clients in ascending order, got {self.clients}.")
        if not len(self.clients) < 2 * self.threshold <= 2 * len(self.clients):
            raise ValueError(
                f"the threshold is more than half of {len(self.clients)} clients and at most all of them, got "
                f"{self.threshold}; with half, a server could unmask two halves apart."
            )

    @classmethod
    def default_threshold(cls, num_clients: int) -> int:
        """A third may drop out.

        >>> [Session.default_threshold(n) for n in (2, 3, 10, 50)]
        [2, 3, 7, 34]
        """
        return 2 * num_clients // 3 + 1

    def purpose(self, what: str, *clients: int) -> str:
        """What a key is for, all that the sum is about included: another sum, or other clients, have another key."""
        about = sha256(repr((self.run, self.number, self.clients, self.threshold)).encode()).hexdigest()
        return f"decollapse secure sum, {what}, {about}, {clients}"

    def share_number(self, client: int) -> int:
        """Which of the shares of a secret is the client's, from 1."""
        return self.clients.index(client) + 1


@dataclass(frozen=True)
class PublicKeys:
    """Phase 0, to the server and from it to everybody.

    Attributes:
        client: whose.
        cipher: for messages to this client (the paper's c^PK).
        mask: for the masks of its pairs (s^PK).
    """

    client: int
    cipher: bytes
    mask: bytes


@dataclass(frozen=True)
class SealedShares:
    """Phase 1, to the server and from it to those they are for.

    Attributes:
        client: whose secrets.
        sealed: for each client its share of both, encrypted.
    """

    client: int
    sealed: dict[int, bytes]


@dataclass(frozen=True, eq=False)
class MaskedInput:
    """Phase 2, to the server.

    Attributes:
        client: whose.
        layout: what the words mean; in the open.
        words: y_u.
    """

    client: int
    layout: Layout
    words: Words = field(repr=False)


@dataclass(frozen=True)
class Unmasking:
    """Phase 4, to the server: of each client one kind of share, never both.

    Attributes:
        client: who tells.
        self_masks: its shares of b_u, for the clients whose input has come.
        mask_keys: its shares of s^SK, for those that dropped out before that.
    """

    client: int
    self_masks: dict[int, int]
    mask_keys: dict[int, int]
