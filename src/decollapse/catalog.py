"""The catalogue: every component a recipe can name, one plain dict a kind.

A name with a colon, such as `my_pkg.terms:MyTerm`, needs no entry here: it is imported.
"""

from __future__ import annotations

from typing import Any

from decollapse.aggregate import Aggregator, WeightedMean
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
from decollapse.models import MLP, ImportedModel, MobileNetV2, ModelBuilder, ResNet18, ResNet20, ResNet32, SmallCNN
from decollapse.objective import Term
from decollapse.optim import SGD, Adam, LocalOptimizer
from decollapse.server import ServerOptimizer, ServerSGD
from decollapse.terms.cross_entropy import CrossEntropy
from decollapse.terms.feddecorr import FedDecorr
from decollapse.terms.proximal import Proximal

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
    "resnet20": ResNet20,
    "resnet32": ResNet32,
    "resnet18": ResNet18,
    "mobilenetv2": MobileNetV2,
    "imported": ImportedModel,
}
TERMS: dict[str, type] = {"cross_entropy": CrossEntropy, "feddecorr": FedDecorr, "proximal": Proximal}
LOCAL_OPTIMIZERS: dict[str, type] = {"sgd": SGD, "adam": Adam}
AGGREGATORS: dict[str, type] = {"weighted_mean": WeightedMean}
SERVER_OPTIMIZERS: dict[str, type] = {"sgd": ServerSGD}
ENGINES: dict[str, type] = {"process": Process, "serial": Serial}

CATALOG: dict[str, dict[str, type]] = {
    "partition": PARTITIONS,
    "model": MODELS,
    "client.objective": TERMS,
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
    LocalOptimizer: LOCAL_OPTIMIZERS,
    Augmentation: AUGMENTATIONS,
    Aggregator: AGGREGATORS,
    ServerOptimizer: SERVER_OPTIMIZERS,
    EngineSettings: ENGINES,
}
"""The same by the protocol a component implements: how a field's type leads to the names it may take."""
