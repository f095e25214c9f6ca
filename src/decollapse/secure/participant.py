"""One client as its process sees it: a request in, a reply out, and what it remembers in between.

What is remembered never leaves the client: its root secret, and what it keeps of training from round to round, which a
run without secure aggregation would give the server to keep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from decollapse.aggregate import SummingAggregator
from decollapse.core import Broadcast, ClientCall, ClientResult, ClientState
from decollapse.secure.client import ClientSecrets, advertise, mask, share, unmask
from decollapse.secure.encoding import FixedPoint
from decollapse.secure.messages import MaskedInput, ProtocolError, PublicKeys, SealedShares, Session, Unmasking
from decollapse.secure.sums import summand

Train = Callable[[ClientCall, Broadcast, int, ClientState], tuple[ClientResult, ClientState]]
"""Runs a call on this client's examples."""


@dataclass(frozen=True, eq=False)
class AskKeys:
    """Phase 0, of one sum or of several to come."""

    sessions: tuple[Session, ...]


@dataclass(frozen=True, eq=False)
class AskShares:
    """Phase 1, of the same sums, with everybody's keys of each."""

    sessions: tuple[Session, ...]
    everyone: tuple[tuple[PublicKeys, ...], ...]


@dataclass(frozen=True, eq=False)
class AskInput:
    """Phase 2 of one sum: run `call`, and send what it gives.

    Attributes:
        session: the sum.
        everyone: all keys.
        sharers: who has sent shares.
        call: what to run; `broadcast` is what it starts from.
        broadcast: as every client of the cohort gets it.
        aggregate: says what a result's summand is.
        encoding: of that in integers.
        completed: sums of this run that were unmasked.
    """

    session: Session
    everyone: tuple[PublicKeys, ...]
    sharers: tuple[int, ...]
    call: ClientCall
    broadcast: Broadcast
    aggregate: SummingAggregator
    encoding: FixedPoint
    completed: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class AskUnmasking:
    """Phase 4 of one sum.

    Attributes:
        session: the sum.
        everyone: all keys.
        inbox: what the others sealed for this client.
        survivors: whose input has come.
    """

    session: Session
    everyone: tuple[PublicKeys, ...]
    inbox: Mapping[int, bytes]
    survivors: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Refusal:
    """In the place of a reply: what went wrong at the client."""

    reason: str


Request = AskKeys | AskShares | AskInput | AskUnmasking
Reply = tuple[PublicKeys, ...] | tuple[SealedShares, ...] | MaskedInput | Unmasking | Refusal


@dataclass(frozen=True, eq=False)
class Memory:
    """What a client remembers.

    Attributes:
        secrets: of the run; None before it.
        state: what its terms, personal parameters and buffers keep between rounds.
        pending: the state after its last training, and the number of the sum it was for: only if that was unmasked has
            the round happened.
    """

    secrets: ClientSecrets | None = None
    state: ClientState = field(default_factory=dict)
    pending: tuple[int, ClientState] | None = None

    def settled(self, completed: Sequence[int]) -> Memory:
        """With the pending state, if its sum is one of these; else without it."""
        happened = self.pending is not None and self.pending[0] in completed
        following = self.pending[1] if self.pending is not None and happened else {}
        return replace(self, state={**self.state, **following}, pending=None)


def answer(request: Request, client: int, memory: Memory, train: Train) -> tuple[Reply, Memory]:
    """The reply to a request, and what the client remembers from then on, to be stored before the reply is sent.

    Raises:
        ProtocolError: the request is against the protocol.
        OutOfRangeError: the result cannot be encoded.
    """
    match request:
        case AskKeys(sessions):
            if memory.secrets is None or memory.secrets.run != sessions[0].run:
                memory = Memory(ClientSecrets.new(client, sessions[0].run), memory.state)
            return tuple(advertise(_known(memory), session) for session in sessions), memory
        case AskShares(sessions, everyone):
            keys_of = zip(sessions, everyone, strict=True)
            return tuple(share(_known(memory), session, keys) for session, keys in keys_of), memory
        case AskInput(session, everyone, sharers):
            memory = memory.settled(request.completed)
            result, state = train(request.call, request.broadcast, client, memory.state)
            tree, layout = summand(result, request.aggregate)
            words = request.encoding.encode(tree, layout)
            masked, secrets = mask(_known(memory), session, everyone, sharers, words, layout)
            return masked, replace(memory, secrets=secrets, pending=(session.number, state))
        case AskUnmasking(session, everyone, inbox, survivors):
            told, secrets = unmask(_known(memory), session, everyone, inbox, survivors)
            return told, replace(memory, secrets=secrets)


def _known(memory: Memory) -> ClientSecrets:
    if memory.secrets is None:
        raise ProtocolError("this client has no secret of the run; it was started after the keys were exchanged.")
    return memory.secrets
