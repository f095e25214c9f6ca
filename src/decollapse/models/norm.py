"""Normalisation layers, as a choice every model offers.

Batch statistics couple the examples of a batch and leave buffers behind that a federation has to average; group and
layer normalisation do neither. Hsieh, Phanishayee, Mutlu, Gibbons, "The Non-IID Data Quagmire of Decentralized Machine
Learning", ICML 2020, https://arxiv.org/abs/1910.00189, compare them under label skew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _NormBase

if TYPE_CHECKING:
    from jaxtyping import Float

Norm = Literal["batch", "group", "layer", "none"]
"""What is normalised together: a channel over the batch, a group of channels of an example, all of them; nothing."""

NORM_LAYERS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""The types of PyTorch's normalisation layers with parameters; the first is BatchNorm's and InstanceNorm's."""


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation of vectors (n, C) or maps (n, C, h, w) that also accepts a single value a channel.

    A training batch with one value a channel (one example, no pixels left) has no variance, and PyTorch's layers raise.
    A client whose last batch, or whose whole data, is one example would end a federated run. Here such a batch is
    normalised with the running statistics and leaves them unchanged, as in eval mode. Everything else, the names in the
    `state_dict` included, is `torch.nn.BatchNorm2d`.

    >>> import torch
    >>> BatchNorm(3).train()(torch.zeros(1, 3)).shape
    torch.Size([1, 3])
    """

    def forward(self, input: Float[Tensor, "n c ..."]) -> Float[Tensor, "n c ..."]:
        """Normalise every channel."""
        if self.training and input.numel() == input.shape[1]:
            return batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim not in (2, 4):
            raise ValueError(
                f"BatchNorm expects inputs (n, channels) or (n, channels, h, w), got {tuple(input.shape)}."
            )


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """A normalisation layer for inputs (n, channels) or (n, channels, h, w), with a learned scale and shift a channel.

    Raises:
        ValueError: `norm` is not one of "batch", "group", "layer", "none".

    >>> norm_layer("group", 64).num_groups, norm_layer("layer", 64).num_groups
    (8, 1)
    """
    check_norm(norm)
    if norm == "batch":
        return BatchNorm(channels)
    if norm == "none":
        return nn.Identity()
    return nn.GroupNorm(1 if norm == "layer" else num_groups(channels), channels)


def num_groups(channels: int) -> int:
    """Groups of GroupNorm: the largest divisor of `channels` that is at most 32 and leaves 8 channels or more a group.

    32 is the default of Wu and He ("Group Normalization", ECCV 2018, https://arxiv.org/abs/1803.08494). In the narrow
    layers of CIFAR models it would leave groups of one channel, which is instance normalisation: hence the 8. Fewer
    than 16 channels make one group.

    >>> [num_groups(channels) for channels in (10, 16, 24, 64, 256, 1280)]
    [1, 2, 3, 8, 32, 32]
    """
    return max(groups for groups in range(1, max(1, min(32, channels // 8)) + 1) if channels % groups == 0)


def check_norm(norm: str) -> None:
    """Raise a ValueError when `norm` is not one of the four choices."""
    if norm not in get_args(Norm):
        raise ValueError(f"norm must be one of {', '.join(map(repr, get_args(Norm)))}, got {norm!r}.")
