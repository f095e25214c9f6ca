"""A Flower grid as one more engine: client calls run where the data are.

    for each attempt:   ask the nodes of all clients that have not answered; wait until `deadline`
    yield results in cohort order; in the place of one that never came, a failure that names client and node
    fewer than `min_results`: an error, and the round has not happened

Parts of the test set, which an engine sees as further clients, are the server's own and evaluated here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from decollapse.core import Broadcast, ClientCall, ClientResult, ClientState
from decollapse.engines import DType, Engine, Federation
from decollapse.engines.serial import Serial
from decollapse.flower.calls import described
from decollapse.flower.inbox import Answer, Inbox
from decollapse.flower.messages import Task
from decollapse.flower.roster import FederationError, Roster
from decollapse.schema import Table

DAY = 24 * 3600.0


@dataclass(frozen=True)
class Patience:
    """How long, and for how many, a round waits.

    Attributes:
        deadline: seconds for the answers to one attempt, > 0.
        retries: further attempts, in which only those who have not answered are asked again, >= 0.
        min_results: answers without which there is no round; 0 for those of the whole cohort.
        wait: seconds for nodes to come, at the start and before an attempt, >= 0.
    """

    deadline: float = 3600.0
    retries: int = 2
    min_results: int = 0
    wait: float = 120.0

    def __post_init__(self) -> None:
        if self.deadline <= 0 or self.wait < 0 or self.retries < 0 or self.min_results < 0:
            raise ValueError(f"deadline is positive; retries, min_results and wait are at least 0; got {self}.")


@dataclass(frozen=True, eq=False)
class OnGrid:
    """Settings of an engine whose clients are the nodes of a grid.

    Attributes:
        roster: which node is which client.
        recipe: sent to the clients: the experiment, complete.
        here: for what is evaluated at the server.
        patience: how long a round waits.
    """

    roster: Roster
    recipe: Table
    here: Serial
    patience: Patience = Patience()

    @property
    def device(self) -> str:
        """Of the server."""
        return self.here.device

    @property
    def dtype(self) -> DType:
        """Of server and clients."""
        return self.here.dtype

    @property
    def channels_last(self) -> bool:
        """Of server and clients."""
        return self.here.channels_last

    @contextmanager
    def __call__(self, federation: Federation) -> Iterator[Engine]:
        """The engine."""
        with self.here(federation) as here:
            yield GridEngine(self, here, len(federation.clients))


class GridEngine:
    """A started `OnGrid`."""

    def __init__(self, settings: OnGrid, here: Engine, num_clients: int) -> None:
        self._settings = settings
        self._here = here
        self._num_clients = num_clients

    def run(
        self, call: ClientCall, broadcast: Broadcast, cohort: Sequence[int], states: Mapping[int, ClientState]
    ) -> Iterator[Answer]:
        """See `Engine.run`.

        Raises:
            FederationError: fewer than `min_results` clients answered; names those that did not.
            UnknownCallError: a client of another process cannot be told to run `call`.
        """
        away = [client for client in cohort if client < self._num_clients]
        if away:
            yield from self._round(call, broadcast, away, states)
        yield from self._here.run(call, broadcast, cohort[len(away) :], states)

    def _round(
        self, call: ClientCall, broadcast: Broadcast, cohort: Sequence[int], states: Mapping[int, ClientState]
    ) -> Iterator[Answer]:
        table, tensors = described(call)
        roster, patience = self._settings.roster, self._settings.patience
        inbox = Inbox(roster)
        position = 0
        for _ in range(1 + patience.retries):
            unanswered = [client for client in cohort if client not in inbox.answered]
            nodes = roster.nodes(unanswered, wait=patience.wait)
            inbox.note_absent(set(unanswered) - nodes.keys())
            lives = roster.lives()
            for client, node in nodes.items():
                task = Task(self._settings.recipe, table, tensors, broadcast, client, states.get(client, {}))
                inbox.send(task, node, lives.get(node, ""), ttl=max(DAY, 2 * patience.deadline))
            deadline = time.monotonic() + patience.deadline
            while inbox.asked(cohort) and time.monotonic() < deadline:
                inbox.look()
                while position < len(cohort) and cohort[position] in inbox.answers:
                    yield inbox.answers.pop(cohort[position])
                    position += 1
            if len(inbox.answered) == len(cohort):
                break
        self._check(inbox, cohort, broadcast.round)
        for client in cohort[position:]:
            if client in inbox.answers:
                yield inbox.answers.pop(client)
            else:
                yield ClientResult.failed(client, inbox.failures[client]), {}

    def _check(self, inbox: Inbox, cohort: Sequence[int], round: int) -> None:
        """Raise where too few have answered."""
        least = min(self._settings.patience.min_results or len(cohort), len(cohort))
        good = len(inbox.answered - inbox.refused)
        if good < max(least, 1):
            reasons = "; ".join(f"client {client}: {inbox.failures[client]}" for client in sorted(inbox.failures))
            raise FederationError(
                f"round {round} has {good} of {len(cohort)} results, and needs {max(least, 1)}: {reasons}. The rounds "
                "before are safe; run again to go on."
            )
