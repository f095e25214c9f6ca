"""Residual networks for small images.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, https://arxiv.org/abs/1512.03385.
`ResNet8`, `ResNet20` and `ResNet32` follow its section 4.2: three stages, shortcuts without parameters (option A).
`ResNet18` is the ImageNet network with the stem that small images call for, one 3 x 3 convolution and no pooling, and
1 x 1 convolutions on the shortcuts that change shape (option B). Departures: the normalisation is a choice, and the
global average pooling accepts every image size.

Without normalisation the branches of a deep residual network add up and training diverges. `norm="none"` therefore
starts every branch at 0 and divides the other weights of the branch by the square root of the number of blocks, after
Zhang, Dauphin, Ma, "Fixup Initialization", ICLR 2019, https://arxiv.org/abs/1901.09321, without its extra scalars: the
biases of the convolutions take their place. Channels that a shortcut fills with zeros keep the branch as it was drawn:
0 + 0 has no gradient through the ReLU, and they would be dead for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from decollapse.models.classifier import Classifier
from decollapse.models.initialization import kaiming
from decollapse.models.norm import Norm, check_norm, norm_layer
from decollapse.models.shape import image_channels


class PaddedShortcut(nn.Module):
    """Option A of the paper: every second pixel, new channels filled with zeros. No parameters."""

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels = new_channels
        self.stride = stride
        self.before = new_channels // 2

    def forward(self, x: Tensor) -> Tensor:
        """Subsample and pad on both sides of the channels."""
        x = x[:, :, :: self.stride, :: self.stride]
        return pad(x, (0, 0, 0, 0, self.before, self.new_channels - self.before))


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut: `relu(shortcut(x) + norm(conv(relu(norm(conv(x))))))`.

    Attributes:
        carried: the channels into which the shortcut brings something.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, norm: Norm, project: bool) -> None:
        super().__init__()
        bias = norm == "none"
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)
        self.norm1 = norm_layer(norm, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=bias)
        self.norm2 = norm_layer(norm, outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        self.carried = slice(None)
        if stride != 1 or inputs != outputs:
            if project:
                conv = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=bias)
                self.shortcut = nn.Sequential(conv, norm_layer(norm, outputs))
            else:
                self.shortcut = PaddedShortcut(outputs - inputs, stride)
                self.carried = slice(self.shortcut.before, self.shortcut.before + inputs)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of branch and shortcut, after the ReLU."""
        branch: Tensor = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        out: Tensor = self.relu(branch + self.shortcut(x))
        return out


def _residual_network(
    input_shape: tuple[int, ...], num_classes: int, *, widths: list[int], blocks: int, norm: Norm, project: bool
) -> nn.Module:
    """A stem, `blocks` residual blocks for each stage in `widths`, global average pooling, the head."""
    encoder = nn.Sequential()
    encoder.add_module("conv", nn.Conv2d(image_channels(input_shape), widths[0], 3, padding=1, bias=norm == "none"))
    encoder.add_module("norm", norm_layer(norm, widths[0]))
    encoder.add_module("relu", nn.ReLU(inplace=True))
    inputs = widths[0]
    for stage, outputs in enumerate(widths, start=1):
        layers = []
        for block in range(blocks):
            stride = 2 if stage > 1 and block == 0 else 1
            layers.append(ResidualBlock(inputs, outputs, stride=stride, norm=norm, project=project))
            inputs = outputs
        encoder.add_module(f"stage{stage}", nn.Sequential(*layers))
    encoder.add_module("pool", nn.AdaptiveAvgPool2d(1))
    encoder.add_module("flatten", nn.Flatten())
    kaiming(encoder)
    if norm == "none":
        _start_branches_at_zero(encoder, num_blocks=blocks * len(widths))
    return Classifier(encoder, nn.Linear(inputs, num_classes))


@torch.no_grad()
def _start_branches_at_zero(encoder: nn.Module, *, num_blocks: int) -> None:
    for module in encoder.modules():
        if isinstance(module, ResidualBlock):
            module.conv1.weight.mul_(num_blocks**-0.5)
            module.conv2.weight[module.carried].zero_()


@dataclass(frozen=True)
class ResidualNetwork:
    """What the residual networks below have in common.

    Attributes:
        width: channels of the first stage; each stage has twice those of the one before, and the last one's number is
            the feature dimension.
        norm: the normalisation after each convolution.

    Raises:
        ValueError: a width below 1, or an unknown `norm`; when called, examples that are no images.
    """

    num_stages: ClassVar[int] = 3
    num_blocks: ClassVar[int]
    project: ClassVar[bool] = False

    width: int = 16
    norm: Norm = "batch"

    def __post_init__(self) -> None:
        check_norm(self.norm)
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}.")

    def __call__(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """A freshly drawn network."""
        widths = [self.width * 2**stage for stage in range(self.num_stages)]
        return _residual_network(
            input_shape, num_classes, widths=widths, blocks=self.num_blocks, norm=self.norm, project=self.project
        )


@dataclass(frozen=True)
class ResNet8(ResidualNetwork):
    """The smallest network of the CIFAR design: one block a stage, 75,290 parameters with 3 channels and 10 classes.

    The paper's rule, 6n + 2 layers, with n = 1; its own networks begin at n = 3. `width` and `norm` are those of
    `ResNet20`.

    >>> ResNet8()((3, 32, 32), 10)(torch.zeros(2, 3, 32, 32)).features.shape
    torch.Size([2, 64])
    """

    num_blocks: ClassVar[int] = 1


@dataclass(frozen=True)
class ResNet20(ResidualNetwork):
    """The ResNet-20 of the CIFAR experiments, 269,722 parameters with three channels, ten classes and BatchNorm.

    Attributes:
        width: channels of the first stage; the stages have w, 2w, 4w, and 4w is the feature dimension.
        norm: the normalisation after each convolution.

    Raises:
        ValueError: a width below 1, or an unknown `norm`; when called, examples that are no images.

    >>> ResNet20()((3, 32, 32), 10)(torch.zeros(2, 3, 32, 32)).features.shape
    torch.Size([2, 64])
    """

    num_blocks: ClassVar[int] = 3


@dataclass(frozen=True)
class ResNet32(ResidualNetwork):
    """The ResNet-32 of the CIFAR experiments, 464,154 parameters with three channels, ten classes and BatchNorm.

    `width` and `norm` are those of `ResNet20`.

    >>> ResNet32()((3, 32, 32), 10)(torch.zeros(2, 3, 32, 32)).features.shape
    torch.Size([2, 64])
    """

    num_blocks: ClassVar[int] = 5


@dataclass(frozen=True)
class ResNet18(ResidualNetwork):
    """ResNet-18 for small images, 11,173,962 parameters with three channels, ten classes and BatchNorm.

    Attributes:
        width: channels of the first stage; the stages have w, 2w, 4w, 8w, and 8w is the feature dimension.
        norm: the normalisation after each convolution.

    Raises:
        ValueError: a width below 1, or an unknown `norm`; when called, examples that are no images.

    >>> ResNet18(width=8)((3, 64, 64), 200)(torch.zeros(2, 3, 64, 64)).features.shape
    torch.Size([2, 64])
    """

    num_stages: ClassVar[int] = 4
    num_blocks: ClassVar[int] = 2
    project: ClassVar[bool] = True

    width: int = 64
