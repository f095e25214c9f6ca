"""MobileNetV2 for small images, the model of FedDecorr's experiments.

Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018,
https://arxiv.org/abs/1801.04381. Departures, those of the CIFAR variant in common use: stride 1 in the stem and in the
second stage, ReLU instead of ReLU6, no dropout, an expansion convolution also where the factor is 1, and a shortcut in
every block of stride 1, with a 1 x 1 convolution where the widths differ.

`norm="none"` draws every layer so that it keeps the scale. The branches that have a shortcut start at 0, and their
other weights are divided by the fourth root of the number of such branches, 14: Fixup's rule for branches of three
layers, see `resnet.py`. It trains at the learning rate of FedDecorr's experiments, 0.01, and diverges at 0.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from decollapse.models.classifier import Classifier
from decollapse.models.initialization import kaiming
from decollapse.models.norm import Norm, check_norm, norm_layer
from decollapse.models.shape import image_channels

FEATURES = 1280

# (expansion, width, blocks, stride of the first block) of each stage
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project: 1 x 1, depthwise 3 x 3 and 1 x 1 convolutions, no ReLU after the last."""

    def __init__(self, inputs: int, outputs: int, *, expansion: int, stride: int, norm: Norm) -> None:
        super().__init__()
        bias = norm == "none"
        inner = expansion * inputs
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=bias)
        self.norm1 = norm_layer(norm, inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=inner, bias=bias)
        self.norm2 = norm_layer(norm, inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=bias)
        self.norm3 = norm_layer(norm, outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module | None = None
        if stride == 1 and inputs == outputs:
            self.shortcut = nn.Identity()
        elif stride == 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=bias), norm_layer(norm, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """The branch, and the shortcut where there is one."""
        branch = self.relu(self.norm1(self.conv1(x)))
        branch = self.relu(self.norm2(self.conv2(branch)))
        out: Tensor = self.norm3(self.conv3(branch))
        return out if self.shortcut is None else out + self.shortcut(x)


@dataclass(frozen=True)
class MobileNetV2:
    """MobileNetV2 for small images, 1280 features; 2,296,922 parameters with 3 channels, 10 classes and BatchNorm.

    Attributes:
        norm: the normalisation after each convolution.

    Raises:
        ValueError: an unknown `norm`; when called, examples that are no images.

    >>> sum(param.numel() for param in MobileNetV2()((3, 32, 32), 10).parameters())
    2296922
    """

    norm: Norm = "batch"

    def __post_init__(self) -> None:
        check_norm(self.norm)

    def __call__(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """A freshly drawn network."""
        bias = self.norm == "none"
        inputs = 32
        encoder = nn.Sequential()
        encoder.add_module("conv1", nn.Conv2d(image_channels(input_shape), inputs, 3, padding=1, bias=bias))
        encoder.add_module("norm1", norm_layer(self.norm, inputs))
        encoder.add_module("relu1", nn.ReLU(inplace=True))
        for stage, (expansion, outputs, num_blocks, first_stride) in enumerate(STAGES, start=1):
            blocks = nn.Sequential()
            for block in range(num_blocks):
                stride = first_stride if block == 0 else 1
                blocks.append(InvertedResidual(inputs, outputs, expansion=expansion, stride=stride, norm=self.norm))
                inputs = outputs
            encoder.add_module(f"stage{stage}", blocks)
        encoder.add_module("conv2", nn.Conv2d(inputs, FEATURES, 1, bias=bias))
        encoder.add_module("norm2", norm_layer(self.norm, FEATURES))
        encoder.add_module("relu2", nn.ReLU(inplace=True))
        encoder.add_module("pool", nn.AdaptiveAvgPool2d(1))
        encoder.add_module("flatten", nn.Flatten())
        kaiming(encoder)
        if self.norm == "none":
            _keep_scale_without_norm(encoder)
        return Classifier(encoder, nn.Linear(FEATURES, num_classes))


@torch.no_grad()
def _keep_scale_without_norm(encoder: nn.Module) -> None:
    blocks = [module for module in encoder.modules() if isinstance(module, InvertedResidual)]
    branches = [block for block in blocks if block.shortcut is not None]
    for block in blocks:
        # No ReLU follows the projections, so their gain is 1, not the square root of 2.
        block.conv3.weight.mul_(0.5**0.5)
        if isinstance(block.shortcut, nn.Sequential):
            block.shortcut.get_parameter("0.weight").mul_(0.5**0.5)
    for block in branches:
        block.conv1.weight.mul_(len(branches) ** -0.25)
        block.conv2.weight.mul_(len(branches) ** -0.25)
        block.conv3.weight.zero_()
