"""Federated algorithms as values: four slots, filled.

>>> algorithm = with_feddecorr(fedavg(ClientUpdate(epochs=10)), beta=0.1)
>>> [term.name for term in algorithm.client.objective]
['cross_entropy', 'feddecorr']
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from decollapse.aggregate import Aggregator, WeightedMean
from decollapse.client import ClientUpdate
from decollapse.objective import Term
from decollapse.server import ServerOptimizer, ServerSGD
from decollapse.terms.feddecorr import FedDecorr, Matrix
from decollapse.terms.proximal import Proximal


@dataclass(frozen=True)
class Algorithm:
    """A federated algorithm is data.

    Attributes:
        client: local training: the terms of the objective and the local optimiser.
        aggregate: from many updates to one.
        server: from the aggregate to a step of the global parameters.
    """

    client: ClientUpdate = ClientUpdate()
    aggregate: Aggregator = WeightedMean()
    server: ServerOptimizer = ServerSGD()


def with_term(algorithm: Algorithm, term: Term) -> Algorithm:
    """`algorithm` with one more summand in its client objective."""
    client = replace(algorithm.client, objective=(*algorithm.client.objective, term))
    return replace(algorithm, client=client)


def with_feddecorr(algorithm: Algorithm, beta: float = 0.1, *, matrix: Matrix = "correlation") -> Algorithm:
    """Any algorithm, plus FedDecorr (Shi et al., ICLR 2023); `matrix="covariance"` for models without BatchNorm."""
    return with_term(algorithm, FedDecorr(beta=beta, matrix=matrix))


def fedavg(client: ClientUpdate = ClientUpdate()) -> Algorithm:
    """Federated averaging (McMahan et al., AISTATS 2017)."""
    return Algorithm(client=client)


def fedavgm(client: ClientUpdate = ClientUpdate(), momentum: float = 0.9) -> Algorithm:
    """FedAvg with heavy-ball momentum on the server (Hsu et al. 2019)."""
    return Algorithm(client=client, server=ServerSGD(momentum=momentum))


def fedprox(client: ClientUpdate = ClientUpdate(), mu: float = 0.01) -> Algorithm:
    """FedAvg whose clients are held near the global model (Li et al., MLSys 2020)."""
    return with_term(fedavg(client), Proximal(mu=mu))
