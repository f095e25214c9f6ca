"""The way to the clients of a secure sum, over a grid.

A client that does not come in a phase, asked as often as `Patience` says, has dropped out; what that means the protocol
knows (`decollapse.secure`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from flwr.app import MessageType, RecordDict

from decollapse.engines import Engine
from decollapse.experiment import Experiment
from decollapse.flower.engine import OnGrid
from decollapse.flower.inbox import Inbox, Patience
from decollapse.flower.messages import SECURE_SUM, MessageError
from decollapse.flower.sum_messages import Asking, decode_reply, encode_request
from decollapse.measurements import due
from decollapse.schema import RecipeError
from decollapse.secure.engine import SecureEngine
from decollapse.secure.messages import Session
from decollapse.secure.participant import Refusal, Reply, Request

KIND = f"{MessageType.TRAIN}.{SECURE_SUM}"


@dataclass(frozen=True, eq=False)
class GridReach:
    """A `Reach` whose clients are the nodes of a grid.

    Attributes:
        settings: of the plain engine in whose place the secure one runs.
    """

    settings: OnGrid

    def ask(self, requests: Mapping[int, Request]) -> Mapping[int, Reply]:
        """The replies; of a client that did not come, a refusal that names its node."""
        askings = {client: Asking(client, request, self.settings.recipe) for client, request in requests.items()}
        inbox = Inbox(self.settings.roster, self.settings.patience)
        replies: dict[int, Reply] = {}

        def content(client: int) -> RecordDict:
            return encode_request(askings[client])

        for answer in inbox.gather(list(askings), content, kind=KIND, group=SECURE_SUM):
            try:
                replies[answer.client] = decode_reply(answer.content, askings[answer.client])
            except MessageError as error:
                replies[answer.client] = Refusal(f"node {answer.node} sent no answer: {error}")
        return replies | {client: Refusal(reason) for client, reason in inbox.failures.items()}


def check_sums(experiment: Experiment, patience: Patience) -> None:
    """Raise RecipeError unless there can be secure sums over the cohorts of an experiment."""
    size = experiment.cohort_size or experiment.num_clients
    try:
        Session(b"", 0, tuple(range(size)), patience.min_results or Session.default_threshold(size))
    except ValueError as error:
        raise RecipeError(f"under secure aggregation min-results is the threshold, and {error}") from None


def secure(settings: OnGrid, experiment: Experiment, *, rounds_done: int) -> OnGrid:
    """The same settings, of an engine that sees nothing of clients but sums: of updates, and of statistics.

    The threshold is `min_results` of the patience, or two thirds of a cohort and one. Keys are new, also where a run
    goes on.
    """
    ahead = num_sums(experiment, rounds_done=rounds_done)

    def over(started: OnGrid, here: Engine, num_clients: int) -> Engine:
        threshold = started.patience.min_results or None
        return SecureEngine(GridReach(started), experiment.aggregate, num_clients, here, threshold, ahead)

    return replace(settings, over=over)


def num_sums(experiment: Experiment, *, rounds_done: int = 0) -> int:
    """How often the rest of a run asks its clients, at least 1: to train, to recalibrate, and for spectra.

    >>> from decollapse.measurements import EvaluationSettings
    >>> num_sums(Experiment(rounds=12, evaluation=EvaluationSettings(federated_every=5)))  # spectra of 5, 10 and 12
    15
    """
    rounds = range(rounds_done + 1, experiment.rounds + 1)
    spectra = sum(due(round, experiment.evaluation.federated_every, last=experiment.rounds) for round in rounds)
    recalibrates = experiment.client.buffers == "recalibrate"
    return max(len(rounds) * (1 + recalibrates) + spectra, 1)
