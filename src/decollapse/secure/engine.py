"""An engine that gives one result for a whole cohort, and never sees a client's own.

    once for `ahead` sums:   advertise keys, share keys
    for each call:           masked input; unmasking; one result, the mean of those that answered

Parts of the test set, which are the server's own, run as they do without masks.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from decollapse.aggregate import Aggregator, SummingAggregator
from decollapse.core import Broadcast, ClientCall, ClientResult, ClientState
from decollapse.engines import ClientError, Engine
from decollapse.secure import server
from decollapse.secure.encoding import FixedPoint
from decollapse.secure.messages import MaskedInput, ProtocolError, PublicKeys, SealedShares, Session, Unmasking
from decollapse.secure.participant import AskInput, AskKeys, AskShares, AskUnmasking, Refusal, Request
from decollapse.secure.reach import Reach
from decollapse.secure.sums import summed

Kind = TypeVar("Kind")


class SecureSumError(ClientError):
    """A sum that could not be unmasked; the round has not happened."""


@dataclass(frozen=True, eq=False)
class _Ready:
    """A sum whose keys are exchanged."""

    session: Session
    everyone: tuple[PublicKeys, ...]
    shared: tuple[SealedShares, ...]


@dataclass(eq=False)
class SecureEngine:
    """Runs a call on a cohort and yields one result: the mean, of which no summand was seen.

    After it comes a failed result for each client that is not in it. States stay with the clients: those given to `run`
    are not used, those yielded are empty, and a checkpoint has none.

    Attributes:
        reach: the way to the clients.
        aggregate: of the run; says what a client's summand is.
        num_clients: of the federation; higher numbers are parts of the test set.
        here: where those are run.
        threshold: clients without whom there is no sum; None for two thirds of the cohort and one.
        ahead: sums whose keys are exchanged at once where the cohort is everyone, >= 1; of another, which may not come
            again, it is one. With the calls of a run, keys are exchanged once, and who is missing then is missing in
            all of them.
        encoding: bounds of what a client adds; its number of clients is set to the cohort's.
        run_id: random, no two runs have the same.
    """

    reach: Reach
    aggregate: Aggregator
    num_clients: int
    here: Engine
    threshold: int | None = None
    ahead: int = 1
    encoding: FixedPoint = FixedPoint(num_clients=1)
    run_id: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    _ready: dict[tuple[int, ...], list[_Ready]] = field(default_factory=dict)
    _begun: int = 0
    _completed: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.ahead < 1:
            raise ValueError(f"ahead is at least 1, got {self.ahead}.")

    def run(
        self, call: ClientCall, broadcast: Broadcast, cohort: Sequence[int], states: Mapping[int, ClientState]
    ) -> Iterator[tuple[ClientResult, ClientState]]:
        """See `Engine.run`.

        Raises:
            SecureSumError: fewer than the threshold answered in one of the phases.
            ValueError: the aggregator needs single updates, or a cohort is of one client.
        """
        clients = tuple(sorted(client for client in cohort if client < self.num_clients))
        if clients:
            yield from self._sum(call, broadcast, clients)
        parts = [client for client in cohort if client >= self.num_clients]
        yield from self.here.run(call, broadcast, parts, states)

    def _sum(
        self, call: ClientCall, broadcast: Broadcast, clients: tuple[int, ...]
    ) -> Iterator[tuple[ClientResult, ClientState]]:
        if not isinstance(self.aggregate, SummingAggregator):
            raise ValueError(
                f"under secure aggregation the server sees sums alone, and {type(self.aggregate).__name__} cannot work "
                "with these; use weighted_mean, normalized_mean or private_mean."
            )
        phases = _Phases(self.reach)
        encoding = replace(self.encoding, num_clients=len(clients))
        try:
            if not self._ready.get(clients):
                self._ready[clients] = self._exchange_keys(phases, clients)
            ready = self._ready[clients].pop(0)
            session, everyone, shared = ready.session, ready.everyone, ready.shared
            sharing = server.sharers(session, shared)
            request = AskInput(
                session, everyone, sharing, call, broadcast, self.aggregate, encoding, completed=self._completed
            )
            masked = list(phases.ask(dict.fromkeys(sharing, request), MaskedInput).values())
            present = server.survivors(session, masked)
            inboxes = {client: server.inbox(client, shared) for client in present}
            unmask = {client: AskUnmasking(session, everyone, inboxes[client], present) for client in present}
            told = list(phases.ask(unmask, Unmasking).values())
            words, layout = server.unmasked(session, everyone, sharing, masked, told)
        except ProtocolError as error:
            raise SecureSumError(f"round {broadcast.round}: {error}{phases.complaints()}") from error
        self._completed += (session.number,)
        yield summed(encoding.decode(words, layout), layout, present, broadcast, self.aggregate), {}
        for client in clients:
            if client not in present:
                reason = phases.reasons.get(client, "it was not there when keys were exchanged")
                yield ClientResult.failed(client, reason), {}

    def _exchange_keys(self, phases: _Phases, clients: tuple[int, ...]) -> list[_Ready]:
        """Phases 0 and 1 of the next sums of a cohort."""
        threshold = self.threshold or Session.default_threshold(len(clients))
        ahead = self.ahead if len(clients) == self.num_clients else 1
        numbers = range(self._begun, self._begun + ahead)
        self._begun += ahead
        sessions = tuple(Session(self.run_id, number, clients, threshold) for number in numbers)
        keys = phases.ask(dict.fromkeys(clients, AskKeys(sessions)), tuple)
        everyone = tuple(
            server.key_list(session, [own[index] for own in keys.values()]) for index, session in enumerate(sessions)
        )
        shares = phases.ask(dict.fromkeys(keys, AskShares(sessions, everyone)), tuple)
        return [
            _Ready(session, everyone[index], tuple(own[index] for own in shares.values()))
            for index, session in enumerate(sessions)
        ]


@dataclass(frozen=True, eq=False)
class _Phases:
    """Asks, and remembers why a client did not answer."""

    reach: Reach
    reasons: dict[int, str] = field(default_factory=dict)

    def ask(self, requests: Mapping[int, Request], kind: type[Kind]) -> dict[int, Kind]:
        """The replies of the kind that is asked for."""
        replies = self.reach.ask(requests)
        good: dict[int, Kind] = {}
        for client in requests:
            reply = replies.get(client)
            if isinstance(reply, kind):
                good[client] = reply
            else:
                self.reasons[client] = reply.reason if isinstance(reply, Refusal) else "it did not answer"
        return good

    def complaints(self) -> str:
        """Of those that refused, one sentence each."""
        return "".join(f" Client {client}: {reason.rstrip('.')}." for client, reason in sorted(self.reasons.items()))
