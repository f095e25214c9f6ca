"""The catalogue: every component a recipe can name, one plain dict a kind.

A name with a colon, such as `my_pkg.terms:MyTerm`, needs no entry here: it is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from decollapse import algorithms
from decollapse.aggregate import Aggregator
from decollapse.aggregate.mean import WeightedMean
from decollapse.aggregate.normalized import NormalizedMean
from decollapse.data import (
    IID,
    Augmentation,
    AutoAugment,
    ByColumn,
    Crop,
    Dirichlet,
    Flip,
    Partition,
    PlainDirichlet,
    Shards,
)
from decollapse.engines import EngineSettings
from decollapse.engines.process import Process
from decollapse.engines.serial import Serial
from decollapse.engines.stacked import Stacked
from decollapse.models import (
    MLP,
    ImportedModel,
    MobileNetV2,
    ModelBuilder,
    Projected,
    ResNet8,
    ResNet18,
    ResNet20,
    ResNet32,
    SimplexClassifier,
    SmallCNN,
    WeightStandardized,
)
from decollapse.objective import Term
from decollapse.optim import SGD, Adam, LocalOptimizer
from decollapse.privacy.private_mean import PrivateMean
from decollapse.robust.coordinates import CoordinateMedian, TrimmedMean
from decollapse.robust.geometric_median import GeometricMedian
from decollapse.robust.krum import Krum
from decollapse.robust.norm_clipping import NormClipping
from decollapse.sam import SAM
from decollapse.schedule import Constant, Cosine, Schedule, WarmUp
from decollapse.server import ServerOptimizer
from decollapse.server.adaptive import FedAdagrad, FedAdam, FedYogi
from decollapse.server.fedacg import FedACG
from decollapse.server.feddyn import ServerFedDyn
from decollapse.server.fedexp import FedExP
from decollapse.server.scaffold import ServerScaffold
from decollapse.server.sgd import ServerSGD
from decollapse.terms.adaptive_feddecorr import AdaptiveFedDecorr
from decollapse.terms.balanced_softmax import BalancedSoftmax
from decollapse.terms.barlow_twins import BarlowTwins
from decollapse.terms.cross_entropy import CrossEntropy
from decollapse.terms.decov import DeCov
from decollapse.terms.eigenvalue_variance import EigenvalueVariance
from decollapse.terms.feddecorr import FedDecorr
from decollapse.terms.feddyn import FedDyn
from decollapse.terms.global_feddecorr import GlobalFedDecorr
from decollapse.terms.koleo import KoLeo
from decollapse.terms.log_determinant import LogDeterminant
from decollapse.terms.logit_calibration import LogitCalibration
from decollapse.terms.manifold_reshaping import IntraClassDecorrelation
from decollapse.terms.memory_feddecorr import MemoryFedDecorr
from decollapse.terms.moon import MOON
from decollapse.terms.not_true_distillation import NotTrueDistillation
from decollapse.terms.proximal import Proximal
from decollapse.terms.relative_variance import RelativeVarianceHinge
from decollapse.terms.relaxed_contrastive import RelaxedContrastive
from decollapse.terms.restricted_softmax import RestrictedSoftmax
from decollapse.terms.scaffold import Scaffold
from decollapse.terms.split_feddecorr import SplitFedDecorr
from decollapse.terms.uniformity import Uniformity
from decollapse.terms.uniformity_variance import ClassifierVariance, HypersphericalUniformity
from decollapse.terms.vacant_classes import LogitSuppression, VacantDistillation
from decollapse.terms.vicreg import CovariancePenalty, VarianceHinge

ALGORITHMS: dict[str, Callable[..., algorithms.Algorithm]] = {
    "fedavg": algorithms.fedavg,
    "fedavgm": algorithms.fedavgm,
    "fedprox": algorithms.fedprox,
    "moon": algorithms.moon,
    "fednova": algorithms.fednova,
    "fedadagrad": algorithms.fedadagrad,
    "fedadam": algorithms.fedadam,
    "fedyogi": algorithms.fedyogi,
    "fedexp": algorithms.fedexp,
    "fedrs": algorithms.fedrs,
    "fedlc": algorithms.fedlc,
    "fedsam": algorithms.fedsam,
    "scaffold": algorithms.scaffold,
    "feddyn": algorithms.feddyn,
    "fedntd": algorithms.fedntd,
    "fedvls": algorithms.fedvls,
    "fedetf": algorithms.fedetf,
    "feduv": algorithms.feduv,
    "fedmr": algorithms.fedmr,
    "fedacg": algorithms.fedacg,
    "fedrcl": algorithms.fedrcl,
    "fedbn": algorithms.fedbn,
    "fedbabu": algorithms.fedbabu,
    "fedper": algorithms.fedper,
    "clients_only": algorithms.clients_only,
}
PARTITIONS: dict[str, type] = {
    "dirichlet": Dirichlet,
    "plain_dirichlet": PlainDirichlet,
    "iid": IID,
    "shards": Shards,
    "by_column": ByColumn,
}
AUGMENTATIONS: dict[str, type] = {
    "crop": Crop,
    "flip": Flip,
    "autoaugment": AutoAugment,
}
MODELS: dict[str, type] = {
    "small_cnn": SmallCNN,
    "mlp": MLP,
    "resnet8": ResNet8,
    "resnet20": ResNet20,
    "resnet32": ResNet32,
    "resnet18": ResNet18,
    "mobilenetv2": MobileNetV2,
    "imported": ImportedModel,
    "projected": Projected,
    "simplex_classifier": SimplexClassifier,
    "weight_standardized": WeightStandardized,
}
TERMS: dict[str, type] = {
    "cross_entropy": CrossEntropy,
    "feddecorr": FedDecorr,
    "adaptive_feddecorr": AdaptiveFedDecorr,
    "memory_feddecorr": MemoryFedDecorr,
    "global_feddecorr": GlobalFedDecorr,
    "split_feddecorr": SplitFedDecorr,
    "relative_variance_hinge": RelativeVarianceHinge,
    "proximal": Proximal,
    "moon": MOON,
    "restricted_softmax": RestrictedSoftmax,
    "logit_calibration": LogitCalibration,
    "balanced_softmax": BalancedSoftmax,
    "scaffold": Scaffold,
    "feddyn": FedDyn,
    "not_true_distillation": NotTrueDistillation,
    "vacant_distillation": VacantDistillation,
    "logit_suppression": LogitSuppression,
    "classifier_variance": ClassifierVariance,
    "hyperspherical_uniformity": HypersphericalUniformity,
    "intra_class_decorrelation": IntraClassDecorrelation,
    "relaxed_contrastive": RelaxedContrastive,
    "variance_hinge": VarianceHinge,
    "covariance_penalty": CovariancePenalty,
    "decov": DeCov,
    "barlow_twins": BarlowTwins,
    "uniformity": Uniformity,
    "koleo": KoLeo,
    "log_determinant": LogDeterminant,
    "eigenvalue_variance": EigenvalueVariance,
}
SCHEDULES: dict[str, type] = {"constant": Constant, "warm_up": WarmUp, "cosine": Cosine}
LOCAL_OPTIMIZERS: dict[str, type] = {"sgd": SGD, "adam": Adam, "sam": SAM}
AGGREGATORS: dict[str, type] = {
    "weighted_mean": WeightedMean,
    "normalized_mean": NormalizedMean,
    "coordinate_median": CoordinateMedian,
    "trimmed_mean": TrimmedMean,
    "krum": Krum,
    "geometric_median": GeometricMedian,
    "norm_clipping": NormClipping,
    "private_mean": PrivateMean,
}
SERVER_OPTIMIZERS: dict[str, type] = {
    "sgd": ServerSGD,
    "adagrad": FedAdagrad,
    "adam": FedAdam,
    "yogi": FedYogi,
    "fedexp": FedExP,
    "fedacg": FedACG,
    "scaffold": ServerScaffold,
    "feddyn": ServerFedDyn,
}
ENGINES: dict[str, type] = {"process": Process, "serial": Serial, "stacked": Stacked}

CATALOG: dict[str, dict[str, Any]] = {
    "algorithm": ALGORITHMS,
    "partition": PARTITIONS,
    "model": MODELS,
    "client.objective": TERMS,
    "client.objective.….schedule": SCHEDULES,
    "client.optimizer": LOCAL_OPTIMIZERS,
    "client.augment": AUGMENTATIONS,
    "aggregate": AGGREGATORS,
    "server": SERVER_OPTIMIZERS,
    "engine": ENGINES,
}
"""Every kind by the place it takes in a recipe."""

KINDS: dict[Any, dict[str, type]] = {
    Partition: PARTITIONS,
    ModelBuilder: MODELS,
    Term: TERMS,
    Schedule: SCHEDULES,
    LocalOptimizer: LOCAL_OPTIMIZERS,
    Augmentation: AUGMENTATIONS,
    Aggregator: AGGREGATORS,
    ServerOptimizer: SERVER_OPTIMIZERS,
    EngineSettings: ENGINES,
}
"""The same by the protocol a component implements: how a field's type leads to the names it may take."""
