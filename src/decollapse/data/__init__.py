"""Data: sets held in memory, their division among clients, augmentation of batches."""

from decollapse.data.augment import Augmentation, Crop, Flip
from decollapse.data.autoaugment import AutoAugment
from decollapse.data.datasets import Dataset, DataSource, Groups, load_dataset
from decollapse.data.federated import FederatedData
from decollapse.data.partition import IID, ByColumn, Dirichlet, Partition, PlainDirichlet, Shards, effective_classes
from decollapse.data.preprocess import CIFAR10_NORMALIZE, Normalize

__all__ = [
    "CIFAR10_NORMALIZE",
    "IID",
    "Augmentation",
    "AutoAugment",
    "ByColumn",
    "Crop",
    "DataSource",
    "Dataset",
    "Dirichlet",
    "FederatedData",
    "Flip",
    "Groups",
    "Normalize",
    "Partition",
    "PlainDirichlet",
    "Shards",
    "effective_classes",
    "load_dataset",
]
