"""Small models for quick runs on a CPU: a multilayer perceptron and a convolutional network."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod

from torch import nn

from decollapse.models.classifier import Classifier
from decollapse.models.initialization import kaiming
from decollapse.models.norm import Norm, check_norm, norm_layer
from decollapse.models.shape import image_channels


@dataclass(frozen=True)
class MLP:
    """A multilayer perceptron for examples of any shape: (Linear, norm, ReLU) a hidden layer, then the head.

    Attributes:
        hidden: widths of the hidden layers; the last one is the feature dimension. Empty: logistic regression, whose
            features are the flattened examples.
        norm: the normalisation after each hidden layer.

    Raises:
        ValueError: a width below 1, or an unknown `norm`.

    >>> import torch
    >>> MLP(hidden=(32, 16))((1, 8, 8), 10)(torch.zeros(5, 1, 8, 8)).features.shape
    torch.Size([5, 16])
    """

    hidden: tuple[int, ...] = (128, 128)
    norm: Norm = "none"

    def __post_init__(self) -> None:
        check_norm(self.norm)
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"widths of hidden layers must be at least 1, got {self.hidden}.")

    def __call__(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """A freshly drawn perceptron."""
        widths = (prod(input_shape), *self.hidden)
        encoder = nn.Sequential(nn.Flatten())
        for number, (inputs, outputs) in enumerate(pairwise(widths), start=1):
            encoder.add_module(f"linear{number}", nn.Linear(inputs, outputs, bias=self.norm == "none"))
            encoder.add_module(f"norm{number}", norm_layer(self.norm, outputs))
            encoder.add_module(f"relu{number}", nn.ReLU(inplace=True))
        kaiming(encoder)
        return Classifier(encoder, nn.Linear(widths[-1], num_classes))


@dataclass(frozen=True)
class SmallCNN:
    """A small convolutional network for images of 8 x 8 pixels or more, made for the CPU.

    (3 x 3 convolution, norm, 2 x 2 max-pooling, ReLU) for each width in `channels`, then a hidden linear layer with
    ReLU, whose outputs are the features. 250,682 parameters with 3 x 32 x 32 pixels and 10 classes, 164,234 with
    1 x 28 x 28.

    Attributes:
        channels: widths of the convolutions.
        features: width of the hidden layer, the feature dimension. 0 leaves it out, and the last max-pooling too: the
            features are the channels of the last convolution, averaged over the pixels.
        norm: the normalisation after each layer.

    Raises:
        ValueError: a width below 1, or an unknown `norm`; when called, examples that are no images or too small.

    >>> import torch
    >>> SmallCNN()((1, 28, 28), 10)(torch.zeros(5, 1, 28, 28)).features.shape
    torch.Size([5, 128])
    """

    channels: tuple[int, ...] = (24, 48, 96)
    features: int = 128
    norm: Norm = "none"

    def __post_init__(self) -> None:
        check_norm(self.norm)
        if not self.channels or min(self.channels) < 1 or self.features < 0:
            raise ValueError(f"SmallCNN needs at least one convolution and positive widths, got {self}.")

    def __call__(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """A freshly drawn network."""
        halvings = 2 ** len(self.channels)
        widths = (image_channels(input_shape, smallest=halvings), *self.channels)
        encoder = nn.Sequential()
        for number, (inputs, outputs) in enumerate(pairwise(widths), start=1):
            bias = self.norm == "none"
            encoder.add_module(f"conv{number}", nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias))
            encoder.add_module(f"norm{number}", norm_layer(self.norm, outputs))
            # Max-pooling and ReLU commute; in this order the ReLU sees a quarter of the pixels.
            if self.features or number < len(self.channels):
                encoder.add_module(f"pool{number}", nn.MaxPool2d(2))
            encoder.add_module(f"relu{number}", nn.ReLU(inplace=True))
        if self.features:
            pixels = (input_shape[1] // halvings) * (input_shape[2] // halvings)
            encoder.add_module("flatten", nn.Flatten())
            encoder.add_module("linear", nn.Linear(widths[-1] * pixels, self.features, bias=self.norm == "none"))
            encoder.add_module("norm", norm_layer(self.norm, self.features))
            encoder.add_module("relu", nn.ReLU(inplace=True))
        else:
            encoder.add_module("average", nn.AdaptiveAvgPool2d(1))
            encoder.add_module("flatten", nn.Flatten())
        kaiming(encoder)
        return Classifier(encoder, nn.Linear(self.features or widths[-1], num_classes))
