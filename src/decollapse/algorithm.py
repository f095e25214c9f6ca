"""What a federated algorithm is: local training, an aggregator and a server that go together; and how to vary one.

>>> from decollapse.terms.proximal import Proximal
>>> [term.name for term in with_feddecorr(with_term(Algorithm(), Proximal())).client.objective]
['cross_entropy', 'proximal', 'feddecorr']
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from decollapse.aggregate import Aggregator
from decollapse.aggregate.mean import WeightedMean
from decollapse.client import ClientUpdate
from decollapse.objective import Term
from decollapse.schedule import Scheduled
from decollapse.server import ServerOptimizer
from decollapse.server.feddyn import ServerFedDyn
from decollapse.server.scaffold import ServerScaffold
from decollapse.server.sgd import ServerSGD
from decollapse.terms.balanced_softmax import BalancedSoftmax
from decollapse.terms.cross_entropy import CrossEntropy
from decollapse.terms.feddecorr import FedDecorr, Matrix
from decollapse.terms.feddyn import FedDyn
from decollapse.terms.logit_calibration import LogitCalibration
from decollapse.terms.restricted_softmax import RestrictedSoftmax
from decollapse.terms.scaffold import Scaffold

TASK_LOSSES = (CrossEntropy, RestrictedSoftmax, LogitCalibration, BalancedSoftmax)
"""Terms that take each other's place."""

HALVES = ((Scaffold, ServerScaffold, "scaffold"), (FedDyn, ServerFedDyn, "feddyn"))
"""Terms and servers that are two halves of one method."""


@dataclass(frozen=True)
class Algorithm:
    """A federated algorithm is data.

    Attributes:
        client: local training: the terms of the objective and the local optimiser.
        aggregate: from many updates to one.
        server: from the aggregate to a step of the global parameters.

    Raises:
        ValueError: one half of a method is there without the other, or with an aggregator it does not work with.
    """

    client: ClientUpdate = ClientUpdate()
    aggregate: Aggregator = WeightedMean()
    server: ServerOptimizer = ServerSGD()

    def __post_init__(self) -> None:
        _check_one_loss(self.client.objective)
        for term, server, name in HALVES:
            self._check_halves(term, server, name)

    def _check_halves(self, term: type[Term], server: type[ServerOptimizer], name: str) -> None:
        """Raise ValueError unless both halves are there, with all they need, or neither."""
        objective, optimizer = self.client.objective, self.client.optimizer
        if any(isinstance(other, Scheduled) and isinstance(other.term, term) for other in objective):
            raise ValueError(f"{name} takes no schedule: its other half counts on the whole term; leave it out.")
        on_client = any(isinstance(summand, term) for summand in objective)
        on_server = isinstance(self.server, server)
        if on_server and not on_client:
            raise ValueError(f'the server "{name}" is half of a method; add the term client.objective.{name}.')
        if not on_client:
            return
        if not on_server:
            raise ValueError(f'the term "{name}" is half of a method; set server = "{name}" for the other half.')
        if term is Scaffold and optimizer.step_size(1) is None:
            raise ValueError(
                "scaffold divides a client's update by its step size, which SGD has and "
                f"{type(optimizer).__name__} has not; set client.optimizer to sgd."
            )
        if self.client.personal:
            raise ValueError(
                f"{name} corrects all parameters and leaves none personal; take client.personal out, got "
                f"{list(self.client.personal)}."
            )
        if self.aggregate != WeightedMean(weights="uniform"):
            raise ValueError(
                f'{name} averages all clients alike; set aggregate = {{ name = "weighted_mean", '
                f'weights = "uniform" }}, got {self.aggregate}.'
            )


def with_term(algorithm: Algorithm, term: Term) -> Algorithm:
    """`algorithm` with one more summand in its client objective."""
    return replace(algorithm, client=adding(algorithm.client, term))


def with_feddecorr(algorithm: Algorithm, beta: float = 0.1, *, matrix: Matrix = "correlation") -> Algorithm:
    """Any algorithm, plus FedDecorr; `matrix="covariance"` for models without BatchNorm.

    Shi et al., ICLR 2023, https://arxiv.org/abs/2210.00226.
    """
    return with_term(algorithm, FedDecorr(beta=beta, matrix=matrix))


def adding(client: ClientUpdate, *terms: Term) -> ClientUpdate:
    """`client` with more summands in its objective."""
    return replace(client, objective=(*client.objective, *terms))


def with_loss(client: ClientUpdate, loss: Term) -> ClientUpdate:
    """`client` with another loss in the place of cross-entropy.

    Raises:
        ValueError: there is no cross-entropy to replace.
    """
    if not any(isinstance(term, CrossEntropy) for term in client.objective):
        names = ", ".join(term.name for term in client.objective)
        raise ValueError(f"{loss.name} takes the place of cross_entropy, which is not in the objective ({names}).")
    objective = tuple(loss if isinstance(term, CrossEntropy) else term for term in client.objective)
    return replace(client, objective=objective)


def _check_one_loss(objective: tuple[Term, ...]) -> None:
    losses = [term.name for term in objective if isinstance(term, TASK_LOSSES)]
    if len(losses) > 1:
        raise ValueError(
            f"an objective has one loss of the task, got {' and '.join(losses)}; take one out, as in "
            f"client.objective.{losses[0]}=false."
        )
