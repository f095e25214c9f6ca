"""Models that return features beside logits, and builders that describe them as values."""

from __future__ import annotations

from decollapse.models.activations import forward, recorded
from decollapse.models.classifier import Classifier, HookedClassifier, ModelBuilder
from decollapse.models.imported import ImportedModel, import_object
from decollapse.models.mobilenetv2 import MobileNetV2
from decollapse.models.norm import BatchNorm, Norm, norm_layer
from decollapse.models.parts import parameter_names
from decollapse.models.projection import Projected
from decollapse.models.resnet import ResNet8, ResNet18, ResNet20, ResNet32
from decollapse.models.simplex_head import SimplexClassifier, SimplexHead, simplex_frame
from decollapse.models.small import MLP, SmallCNN
from decollapse.models.weight_standardization import StandardizedConv2d, WeightStandardized

__all__ = [
    "MLP",
    "BatchNorm",
    "Classifier",
    "HookedClassifier",
    "ImportedModel",
    "MobileNetV2",
    "ModelBuilder",
    "Norm",
    "Projected",
    "ResNet8",
    "ResNet18",
    "ResNet20",
    "ResNet32",
    "SimplexClassifier",
    "SimplexHead",
    "SmallCNN",
    "StandardizedConv2d",
    "WeightStandardized",
    "forward",
    "import_object",
    "norm_layer",
    "parameter_names",
    "recorded",
    "simplex_frame",
]
