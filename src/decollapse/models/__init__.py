"""Models that return features beside logits, and builders that describe them as values."""

from __future__ import annotations

from decollapse.models.classifier import Classifier, HookedClassifier, ModelBuilder
from decollapse.models.imported import ImportedModel, import_object
from decollapse.models.mobilenetv2 import MobileNetV2
from decollapse.models.norm import BatchNorm, Norm, norm_layer
from decollapse.models.resnet import ResNet18, ResNet20, ResNet32
from decollapse.models.small import MLP, SmallCNN

__all__ = [
    "MLP",
    "BatchNorm",
    "Classifier",
    "HookedClassifier",
    "ImportedModel",
    "MobileNetV2",
    "ModelBuilder",
    "Norm",
    "ResNet18",
    "ResNet20",
    "ResNet32",
    "SmallCNN",
    "import_object",
    "norm_layer",
]
