"""A Flower grid as one more engine: client calls run where the data are.

    ask the nodes of the cohort, again where none answers
    yield results in cohort order; in the place of one that never came, a failure that names client and node
    fewer than `min_results`: an error, and the round has not happened

Parts of the test set, which an engine sees as further clients, are the server's own and evaluated here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from flwr.app import MessageType, RecordDict

from decollapse.core import Broadcast, ClientCall, ClientResult, ClientState
from decollapse.engines import DType, Engine, Federation
from decollapse.engines.serial import Serial
from decollapse.flower.calls import described
from decollapse.flower.inbox import Answer, Inbox, Patience
from decollapse.flower.messages import MessageError, Task, decode_result, encode_task
from decollapse.flower.roster import FederationError, Roster
from decollapse.schema import Table


class GridEngine:
    """A started `OnGrid`: every client's own result."""

    def __init__(self, settings: OnGrid, here: Engine, num_clients: int) -> None:
        self._settings = settings
        self._here = here
        self._num_clients = num_clients

    def run(
        self, call: ClientCall, broadcast: Broadcast, cohort: Sequence[int], states: Mapping[int, ClientState]
    ) -> Iterator[tuple[ClientResult, ClientState]]:
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
    ) -> Iterator[tuple[ClientResult, ClientState]]:
        table, tensors = described(call)
        inbox = Inbox(self._settings.roster, self._settings.patience)
        waiting: dict[int, tuple[ClientResult, ClientState]] = {}
        refused: dict[int, str] = {}
        position = 0

        def task(client: int) -> RecordDict:
            return encode_task(Task(self._settings.recipe, table, tensors, broadcast, client, states.get(client, {})))

        for answer in inbox.gather(cohort, task, kind=MessageType.TRAIN, group=str(broadcast.round)):
            result, state = _result_of(answer)
            waiting[answer.client] = result, state
            if result.failure is not None:
                refused[answer.client] = result.failure.rstrip(".")
            while position < len(cohort) and cohort[position] in waiting:
                yield waiting.pop(cohort[position])
                position += 1
        self._check(inbox.failures | refused, len(cohort), broadcast.round)
        for client in cohort[position:]:
            if client in waiting:
                yield waiting.pop(client)
            else:
                yield ClientResult.failed(client, inbox.failures[client]), {}

    def _check(self, failures: Mapping[int, str], asked: int, round: int) -> None:
        """Raise where too few have answered."""
        least = max(min(self._settings.patience.min_results or asked, asked), 1)
        good = asked - len(failures)
        if good < least:
            reasons = "; ".join(f"client {client}: {failures[client]}" for client in sorted(failures))
            raise FederationError(
                f"round {round} has {good} of {asked} results, and needs {least}: {reasons}. The rounds before are "
                "safe; run again to go on."
            )


def _result_of(answer: Answer) -> tuple[ClientResult, ClientState]:
    try:
        return decode_result(answer.content, answer.client)
    except MessageError as error:
        return ClientResult.failed(answer.client, f"node {answer.node} sent no result: {error}"), {}


@dataclass(frozen=True, eq=False)
class OnGrid:
    """Settings of an engine whose clients are the nodes of a grid.

    Attributes:
        roster: which node is which client.
        recipe: sent to the clients: the experiment, complete.
        here: for what is evaluated at the server.
        patience: how long a round waits.
        over: makes the engine of these settings, of the server's own engine and of the number of clients.
    """

    roster: Roster
    recipe: Table
    here: Serial
    patience: Patience = Patience()
    over: Callable[[OnGrid, Engine, int], Engine] = GridEngine

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
            yield self.over(self, here, len(federation.clients))
