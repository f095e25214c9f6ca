"""Federated algorithms as values: three slots, filled.

Each function takes local training as you want it and returns it with what the algorithm adds. In a recipe it is
`algorithm = "moon"`, or a table `[algorithm]` with a `name` and the function's settings.

>>> algorithm = with_feddecorr(moon(ClientUpdate(epochs=10), mu=5.0), beta=0.1)
>>> [term.name for term in algorithm.client.objective]
['cross_entropy', 'moon', 'feddecorr']
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from decollapse.aggregate.mean import WeightedMean
from decollapse.aggregate.normalized import NormalizedMean
from decollapse.algorithm import Algorithm as Algorithm
from decollapse.algorithm import adding, with_loss
from decollapse.algorithm import with_feddecorr as with_feddecorr
from decollapse.algorithm import with_term as with_term
from decollapse.client import ClientUpdate
from decollapse.sam import SAM
from decollapse.server.adaptive import FedAdagrad, FedAdam, FedYogi
from decollapse.server.fedacg import FedACG
from decollapse.server.feddyn import ServerFedDyn
from decollapse.server.fedexp import FedExP
from decollapse.server.scaffold import ServerScaffold
from decollapse.server.sgd import ServerSGD
from decollapse.terms.balanced_softmax import BalancedSoftmax
from decollapse.terms.feddyn import FedDyn
from decollapse.terms.logit_calibration import LogitCalibration
from decollapse.terms.manifold_reshaping import IntraClassDecorrelation
from decollapse.terms.moon import MOON
from decollapse.terms.not_true_distillation import NotTrueDistillation
from decollapse.terms.proximal import Proximal
from decollapse.terms.relaxed_contrastive import RelaxedContrastive
from decollapse.terms.restricted_softmax import RestrictedSoftmax
from decollapse.terms.scaffold import Scaffold
from decollapse.terms.uniformity_variance import ClassifierVariance, HypersphericalUniformity
from decollapse.terms.vacant_classes import LogitSuppression, VacantDistillation

Compat = Literal["paper", "release"]
"""Whose numbers to give where the FedDecorr release departs from a method's paper."""


def fedavg(client: ClientUpdate = ClientUpdate()) -> Algorithm:
    """Federated averaging.

    McMahan et al., AISTATS 2017, https://arxiv.org/abs/1602.05629.
    """
    return Algorithm(client)


def fedavgm(client: ClientUpdate = ClientUpdate(), *, momentum: float = 0.9, compat: Compat = "paper") -> Algorithm:
    """FedAvg with heavy-ball momentum on the server; the release damps it.

    Hsu, Qi, Brown 2019, https://arxiv.org/abs/1909.06335.
    """
    return Algorithm(client, server=ServerSGD(momentum=momentum, damped=compat == "release"))


def fedprox(client: ClientUpdate = ClientUpdate(), *, mu: float = 0.01) -> Algorithm:
    """FedAvg whose clients are held near the global model.

    Li et al., MLSys 2020, https://arxiv.org/abs/1812.06127.
    """
    return Algorithm(adding(client, Proximal(mu=mu)))


def moon(
    client: ClientUpdate = ClientUpdate(),
    *,
    mu: float = 1.0,
    temperature: float | None = None,
    compat: Compat = "paper",
) -> Algorithm:
    """Features near the global model's and away from the client's last ones.

    Li, He, Song, CVPR 2021, https://arxiv.org/abs/2103.16257. Its projection head is the model "projected". The
    temperature is 0.5 unless it is given; the release ignores its own, which makes it 1.
    """
    default = 1.0 if compat == "release" else 0.5
    return Algorithm(adding(client, MOON(mu=mu, temperature=default if temperature is None else temperature)))


def fednova(client: ClientUpdate = ClientUpdate()) -> Algorithm:
    """Updates divided by their effective steps before they are averaged.

    Wang et al., NeurIPS 2020, https://arxiv.org/abs/2007.07481.
    """
    return Algorithm(client, aggregate=NormalizedMean())


def fedadagrad(
    client: ClientUpdate = ClientUpdate(), *, lr: float = 0.01, tau: float = 1e-3, compat: Compat = "paper"
) -> Algorithm:
    """A server step size for each parameter, from the sum of its squares; the release adds momentum to it.

    Reddi et al., ICLR 2021, https://arxiv.org/abs/2003.00295.
    """
    release = compat == "release"
    server = FedAdagrad(lr=lr, tau=tau, beta1=0.9 if release else 0.0, initial=0.0 if release else None)
    return Algorithm(client, server=server)


def fedadam(
    client: ClientUpdate = ClientUpdate(), *, lr: float = 0.01, tau: float = 1e-3, compat: Compat = "paper"
) -> Algorithm:
    """A server step size for each parameter, from a moving average of its squares.

    Reddi et al., ICLR 2021, https://arxiv.org/abs/2003.00295.
    """
    return Algorithm(client, server=FedAdam(lr=lr, tau=tau, initial=0.0 if compat == "release" else None))


def fedyogi(
    client: ClientUpdate = ClientUpdate(), *, lr: float = 0.01, tau: float = 1e-3, compat: Compat = "paper"
) -> Algorithm:
    """FedAdam with second moments that fall slowly.

    Reddi et al., ICLR 2021, https://arxiv.org/abs/2003.00295.
    """
    return Algorithm(client, server=FedYogi(lr=lr, tau=tau, initial=0.0 if compat == "release" else None))


def fedexp(client: ClientUpdate = ClientUpdate(), *, eps: float = 1e-3, compat: Compat = "paper") -> Algorithm:
    """A longer server step the less the clients agree; the release evaluates the last model, not the last two's mean.

    Jhunjhunwala, Wang, Joshi, ICLR 2023, https://arxiv.org/abs/2301.09604.
    """
    return Algorithm(client, server=FedExP(eps=eps, average_last_two=compat == "paper"))


def fedrs(client: ClientUpdate = ClientUpdate(), *, alpha: float = 0.5) -> Algorithm:
    """A softmax that is restricted for classes a client does not have.

    Li, Zhan, KDD 2021, https://doi.org/10.1145/3447548.3467254.
    """
    return Algorithm(with_loss(client, RestrictedSoftmax(alpha=alpha)))


def fedlc(client: ClientUpdate = ClientUpdate(), *, tau: float | None = None, compat: Compat = "paper") -> Algorithm:
    """Logits calibrated by the client's class counts.

    Zhang et al., ICML 2022, https://arxiv.org/abs/2209.00189. tau is 1 unless it is given, in the release 0.1.
    """
    default = 0.1 if compat == "release" else 1.0
    return Algorithm(with_loss(client, LogitCalibration(tau=default if tau is None else tau)))


def fedsam(client: ClientUpdate = ClientUpdate(), *, rho: float = 0.05, adaptive: bool = False) -> Algorithm:
    """Local training that looks for flat minima.

    Qu et al., ICML 2022, https://arxiv.org/abs/2206.02618; Caldarola et al., ECCV 2022.
    """
    return Algorithm(replace(client, optimizer=SAM(base=client.optimizer, rho=rho, adaptive=adaptive)))


def scaffold(client: ClientUpdate = ClientUpdate(), *, lr: float = 1.0) -> Algorithm:
    """Control variates take the client's own direction out of its gradient.

    Karimireddy et al., ICML 2020, https://arxiv.org/abs/1910.06378.
    """
    return Algorithm(adding(client, Scaffold()), WeightedMean(weights="uniform"), ServerScaffold(lr=lr))


def feddyn(client: ClientUpdate = ClientUpdate(), *, alpha: float = 0.01) -> Algorithm:
    """A regulariser that makes the clients' optima and the federation's agree.

    Acar et al., ICLR 2021, https://arxiv.org/abs/2111.04263.
    """
    return Algorithm(adding(client, FedDyn(alpha=alpha)), WeightedMean(weights="uniform"), ServerFedDyn())


def fedacg(client: ClientUpdate = ClientUpdate(), *, momentum: float = 0.85, mu: float = 2e-3) -> Algorithm:
    """Clients start one server momentum step ahead, and are held near there.

    Kim, Kim, Han, CVPR 2024, https://arxiv.org/abs/2201.03172. Their weight 1e-3 has no 1/2: mu is twice that.
    """
    return Algorithm(adding(client, Proximal(mu=mu)), WeightedMean(weights="uniform"), FedACG(momentum=momentum))


def fedntd(client: ClientUpdate = ClientUpdate(), *, beta: float = 1.0, temperature: float = 1.0) -> Algorithm:
    """Distillation of what the global model says about the classes an example is not of.

    Lee et al., NeurIPS 2022, https://arxiv.org/abs/2106.03097.
    """
    return Algorithm(adding(client, NotTrueDistillation(beta=beta, temperature=temperature)))


def fedvls(client: ClientUpdate = ClientUpdate(), *, strength: float = 1.0) -> Algorithm:
    """A softmax with the client's class frequencies, and distillation on the classes it does not have.

    Guo et al., AAAI 2025, https://arxiv.org/abs/2401.02329.
    """
    loss = BalancedSoftmax(absent="as_none")
    return Algorithm(adding(with_loss(client, loss), LogitSuppression(), VacantDistillation(strength=strength)))


def feduv(client: ClientUpdate = ClientUpdate(), *, variance: float = 2.5, uniformity: float = 0.5) -> Algorithm:
    """Predictions that vary, and features that spread, as they would with equal clients.

    Son et al., CVPR 2024, https://arxiv.org/abs/2402.18372.
    """
    return Algorithm(adding(client, ClassifierVariance(strength=variance), HypersphericalUniformity(uniformity)))


def fedrcl(client: ClientUpdate = ClientUpdate(), *, strength: float = 1.0, layers: tuple[str, ...] = ()) -> Algorithm:
    """Contrast between classes, relaxed where examples of one class are close enough; the paper takes every stage.

    Seo, Kim, Kim, Han, CVPR 2024, https://arxiv.org/abs/2401.04928.
    """
    return Algorithm(adding(client, RelaxedContrastive(strength=strength, layers=layers)))


def fedetf(client: ClientUpdate = ClientUpdate()) -> Algorithm:
    """The loss of FedETF; its fixed simplex head is the model "simplex_classifier".

    Li et al., ICCV 2023, https://arxiv.org/abs/2303.10058.
    """
    return Algorithm(with_loss(client, BalancedSoftmax()))


def fedmr(client: ClientUpdate = ClientUpdate(), *, mu: float = 0.01) -> Algorithm:
    """Features decorrelated within each class: the intra-class half of FedMR.

    Fan et al., TMLR 2023, https://arxiv.org/abs/2405.18983.
    """
    return Algorithm(adding(client, IntraClassDecorrelation(mu=mu)))


def fedbn(client: ClientUpdate = ClientUpdate()) -> Algorithm:
    """Normalisation layers, weights and statistics, stay with their client.

    Li et al., ICLR 2021, https://arxiv.org/abs/2102.07623.
    """
    return Algorithm(replace(client, personal=(*client.personal, "norm"), buffers="local"))


def fedbabu(client: ClientUpdate = ClientUpdate(), *, head: str = "head") -> Algorithm:
    """The head stays as it was drawn; only the body is trained.

    Oh, Kim, Yun, ICLR 2022, https://arxiv.org/abs/2106.06042.
    """
    return Algorithm(replace(client, frozen=(*client.frozen, head)))


def fedper(client: ClientUpdate = ClientUpdate(), *, head: str = "head") -> Algorithm:
    """Each client keeps a head of its own.

    Arivazhagan et al. 2019, https://arxiv.org/abs/1912.00818.
    """
    return Algorithm(replace(client, personal=(*client.personal, head)))


def clients_only(client: ClientUpdate = ClientUpdate()) -> Algorithm:
    """No federation: each client trains its own model for all rounds; what is evaluated is the mean over clients.

    The lower baseline. The upper one, all data in one place, is `num_clients = 1`.
    """
    return Algorithm(replace(client, personal=("all",), buffers="local"))
