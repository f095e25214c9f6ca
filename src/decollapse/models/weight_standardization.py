"""Weight standardisation: convolutions whose filters have mean 0 and variance 1.

Qiao, Wang, Liu, Shen, Yuille, "Micro-Batch Training with Batch-Channel Normalization and Weight Standardization", 2019,
https://arxiv.org/abs/1903.10520. For each filter i, over its I = inputs x height x width weights,

    W'_ij = (W_ij - mean_i) / (std_i + 1e-5)        std_i^2 = sum_j (W_ij - mean_i)^2 / (I - 1)

The model keeps W, and W' is made of it in every forward pass. A federation therefore averages W: the standardised mean
is not the mean of the standardised filters.

As in the authors' PyTorch layer, the variance is the unbiased one, where the paper divides by I. Departures from that
layer: a filter of a single weight, which has no variance, is used as it is; and `padding_mode` is respected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from decollapse.models.classifier import ModelBuilder
from decollapse.models.norm import NORM_LAYERS

if TYPE_CHECKING:
    from jaxtyping import Float

EPS = 1e-5


def standardize(weight: Float[Tensor, "outputs inputs h w"]) -> Float[Tensor, "outputs inputs h w"]:
    """Shift and scale each filter to mean 0 and unbiased variance 1; one of equal weights becomes 0.

    >>> standardize(torch.tensor([3.0, 5.0, 7.0]).reshape(1, 1, 1, 3)).flatten()
    tensor([-1.0000,  0.0000,  1.0000])
    """
    if weight[0].numel() == 1:
        return weight
    std, mean = torch.std_mean(weight, dim=(1, 2, 3), keepdim=True)
    standardized: Tensor = (weight - mean) / (std + EPS)
    return standardized


class StandardizedConv2d(nn.Conv2d):
    """A convolution with standardised filters; arguments and parameters are those of `torch.nn.Conv2d`.

    The scale of its output grows with the square root of the number of weights of a filter, whatever was drawn: put a
    normalisation layer behind it.

    >>> layer = StandardizedConv2d(3, 8, 3)
    >>> x = torch.randn(2, 3, 5, 5)
    >>> torch.allclose(layer(x), nn.functional.conv2d(x, standardize(layer.weight), layer.bias))
    True
    """

    def forward(self, input: Float[Tensor, "n inputs h w"]) -> Float[Tensor, "n outputs h2 w2"]:
        """Convolve with the standardised filters."""
        output: Tensor = self._conv_forward(input, standardize(self.weight), self.bias)
        return output


@dataclass(frozen=True)
class WeightStandardized:
    """The model of `body` with every convolution standardised: `WeightStandardized(ResNet20(norm="group"))`.

    Parameters keep their names and their initial values. Subclasses of `torch.nn.Conv2d` have a forward pass of their
    own and stay as they are.

    Attributes:
        body: builds the model, with normalisation layers.

    Raises:
        ValueError: when called, the model has no `torch.nn.Conv2d` or no normalisation layer. Without, activations grow
            from layer to layer: SmallCNN and ResNet20 with `norm="none"` diverge in the first steps of SGD at 0.01.

    >>> from decollapse.models import SmallCNN
    >>> WeightStandardized(SmallCNN(norm="group"))((1, 28, 28), 10).encoder.conv1
    StandardizedConv2d(1, 24, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
    """

    body: ModelBuilder

    def __call__(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """A freshly drawn model."""
        model = self.body(input_shape, num_classes)
        convolutions = [module for module in model.modules() if type(module) is nn.Conv2d]
        if not convolutions:
            raise ValueError(f"WeightStandardized needs a model with torch.nn.Conv2d layers, got none in {self.body}.")
        if not any(isinstance(module, NORM_LAYERS) for module in model.modules()):
            raise ValueError(
                f"WeightStandardized needs a model with normalisation layers, got none in {self.body}; "
                'most builders take norm = "group".'
            )
        for convolution in convolutions:
            # The class is all that differs: weights, mode, hooks and second names of a shared layer stay as they are.
            convolution.__class__ = StandardizedConv2d
        return model
