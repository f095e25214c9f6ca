"""From stored examples to the floating-point input of a model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped, UInt8


@dataclass(frozen=True)
class Normalize:
    """Shift and scale every channel (of images) or every feature (of tables).

        uint8 images:    (x / 255 - mean) / std, as float32
        floating point:  (x - mean) / std, in the dtype of x

    Attributes:
        mean: one number a channel or feature, or a single one for all; for uint8 images in units of 255.
        std: the same for the scale; positive.

    Raises:
        ValueError: the lengths differ, a std is not positive, or the input has another number of channels.

    >>> Normalize(mean=(0.5,), std=(0.5,))(torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
    tensor([[[[-1.,  1.]]]])
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(
                f"normalisation needs as many means as stds, one a channel or one for all, "
                f"got {len(self.mean)} means and {len(self.std)} stds."
            )
        if not all(std > 0 for std in self.std):
            raise ValueError(f"every std must be positive, got {self.std}; use 1.0 for a constant channel.")

    def __call__(self, x: Shaped[Tensor, "n c ..."]) -> Float[Tensor, "n c ..."]:
        """Return a new tensor; `x` is left alone."""
        if len(self.mean) not in (1, x.shape[1]):
            raise ValueError(
                f"this normalisation is for {len(self.mean)} channels, "
                f"the batch has {x.shape[1]} (shape {tuple(x.shape)})."
            )
        unit, dtype = (1.0, x.dtype) if x.is_floating_point() else (255.0, torch.float32)
        mean, scale = _constants(self, unit, x.ndim, dtype, x.device)
        return x.to(dtype, copy=True).sub_(mean).mul_(scale)

    @classmethod
    def fit(cls, x: Shaped[Tensor, "n c ..."]) -> Normalize:
        """The mean and (population) standard deviation of a training set, a constant channel getting a std of 1.

        >>> Normalize.fit(torch.tensor([[0.0, 5.0], [2.0, 5.0]]))
        Normalize(mean=(1.0, 5.0), std=(1.0, 1.0))
        """
        if x.dtype == torch.uint8:
            mean, std = _histogram_moments(x)
        else:
            rows = x.double().transpose(0, 1).flatten(1)
            mean, std = rows.mean(1), rows.std(1, correction=0)
        # A constant column of floating-point numbers can have a std that is rounding error.
        std = torch.where(std > 1e-12 * mean.abs(), std, 1.0)
        return cls(tuple(mean.tolist()), tuple(std.tolist()))


@lru_cache(maxsize=64)
def _constants(
    normalize: Normalize, unit: float, ndim: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Mean and 1 / std in units of the stored numbers, to broadcast over a batch; kept, for they cost as much as it."""
    shape = (-1,) + (1,) * (ndim - 2)
    mean = torch.tensor([m * unit for m in normalize.mean], dtype=dtype, device=device).view(shape)
    return mean, torch.tensor([1 / (s * unit) for s in normalize.std], dtype=dtype, device=device).view(shape)


def _histogram_moments(x: UInt8[Tensor, "n c h w"]) -> tuple[Float[Tensor, "c"], Float[Tensor, "c"]]:
    """Mean and standard deviation of each channel in units of 255, exact sums, without a floating-point copy of `x`."""
    counts = torch.zeros(x.shape[1], 256, dtype=torch.float64)
    for part in torch.split(x, 1000):
        counts += torch.stack([channel.flatten().bincount(minlength=256) for channel in part.unbind(1)])
    shares, values = counts / counts.sum(1, keepdim=True), torch.arange(256, dtype=torch.float64) / 255
    mean = shares @ values
    return mean, (shares * (values - mean[:, None]).square()).sum(1).sqrt()


CIFAR10_NORMALIZE = Normalize(
    mean=(125.3 / 255, 123.0 / 255, 113.9 / 255),
    std=(63.0 / 255, 62.1 / 255, 66.7 / 255),
)
"""The customary constants for CIFAR-10, those of the FedDecorr release; the training set's own to 3 digits."""
