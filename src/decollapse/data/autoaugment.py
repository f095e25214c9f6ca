"""AutoAugment's CIFAR-10 policy on a whole batch.

Cubuk, Zoph, Mané, Vasudevan, Le, "AutoAugment: Learning Augmentation Policies from Data", CVPR 2019,
https://arxiv.org/abs/1805.09501. Magnitudes, signs and operations are torchvision's `AutoAugment(CIFAR10)` on Pillow
images (nearest pixel, black outside). The FedDecorr release draws magnitudes uniformly from a signed range above each
level and interpolates with splines; that is not in the AutoAugment paper and is not followed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from decollapse.data import image_ops

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8

MOVEMENTS = {
    "ShearX": image_ops.shear_x,
    "ShearY": image_ops.shear_y,
    "TranslateX": image_ops.translate_x,
    "TranslateY": image_ops.translate_y,
    "Rotate": image_ops.rotate,
}
"""Operations that move pixels: their coefficients for `image_ops.warp`."""

ADJUSTMENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Color": image_ops.color,
    "Contrast": image_ops.contrast,
    "Brightness": image_ops.brightness,
    "Sharpness": image_ops.sharpness,
    "Posterize": image_ops.posterize,
    "Solarize": image_ops.solarize,
    "AutoContrast": image_ops.auto_contrast,
    "Equalize": image_ops.equalize,
    "Invert": image_ops.invert,
}
"""Operations that change values in place: (images, one value an image) -> images."""

CIFAR10_POLICY = (
    (("Invert", 0.1, 7), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 8), ("Equalize", 0.9, 2)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 5), ("Equalize", 0.5, 1)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, 7), ("AutoContrast", 0.4, 8)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 3)),
    (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.2, 8), ("Equalize", 0.6, 4)),
    (("Color", 0.9, 9), ("Equalize", 0.6, 6)),
    (("AutoContrast", 0.8, 4), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 3)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 2), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, 8), ("Invert", 0.1, 3)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 1)),
)
"""Sub-policies of two operations, each with its probability and level; operations without a strength ignore it."""


def value_of(name: str, level: int, *, negative: bool, h: int, w: int) -> float:
    """What a level from 0 to 9 means, in the unit of the operation; 0 for operations without a strength.

    >>> value_of("Rotate", 9, negative=True, h=32, w=32), value_of("Posterize", 7, negative=False, h=32, w=32)
    (-30.0, 5)
    """
    share = -level / 9 if negative else level / 9
    match name:
        case "ShearX" | "ShearY":
            return 0.3 * share
        case "TranslateX":
            return 150 / 331 * w * share
        case "TranslateY":
            return 150 / 331 * h * share
        case "Rotate":
            return 30 * share
        case "Color" | "Contrast" | "Brightness" | "Sharpness":
            return 1 + 0.9 * share
        case "Posterize":
            return 8 - round(level * 4 / 9)
        case "Solarize":
            return 255 - 255 * level / 9
        case _:
            return 0


@dataclass(frozen=True)
class AutoAugment:
    """Give every image one of 25 pairs of operations (colour, contrast, movement), each applied with its probability.

    For uint8 images with one or three channels; meant to follow `Crop` and `Flip`.

    >>> images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    >>> AutoAugment()(images, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 32, 32])
    """

    def __call__(self, images: UInt8[Tensor, "n c h w"], generator: torch.Generator) -> UInt8[Tensor, "n c h w"]:
        """Draw a pair, two coins and two signs for each image, then apply the first and the second operations."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                "AutoAugment needs uint8 images (n, 1 or 3 channels, h, w), "
                f"got {images.dtype} of shape {tuple(images.shape)}."
            )
        n, _, h, w = images.shape
        policy = torch.randint(len(CIFAR10_POLICY), (n,), generator=generator)
        applied = torch.rand(2, n, generator=generator)
        negative = torch.randint(2, (2, n), generator=generator)
        table = _table(h, w)
        for step in (0, 1):
            chosen = table[policy, step, negative[step]]
            operation = torch.where(applied[step] < chosen[:, 1], chosen[:, 0], NOTHING).long()
            images = _apply(images, operation, chosen[:, 2], chosen[:, 3:])
        return images


NOTHING = len(MOVEMENTS) + len(ADJUSTMENTS)
"""The number of the operation that leaves an image alone; the others are numbered in the order of the two tables."""


def _apply(
    images: UInt8[Tensor, "n c h w"],
    operation: Int[Tensor, "n"],
    value: Float[Tensor, "n"],
    coefficients: Float[Tensor, "n 6"],
) -> UInt8[Tensor, "n c h w"]:
    """Apply to each image its operation: one call for all movements, one for each adjustment."""
    order = operation.argsort(stable=True)
    counts = operation.bincount(minlength=NOTHING + 1).tolist()
    num_moved = sum(counts[: len(MOVEMENTS)])
    sizes = [num_moved, *counts[len(MOVEMENTS) :]]
    moving, *groups, left_alone = torch.split(images.index_select(0, order.to(images.device)), sizes)
    _, *values, _ = torch.split(value[order].to(images.device), sizes)
    changed = [image_ops.warp(moving, coefficients[order[:num_moved]].to(images.device))]
    changed += [
        adjust(group, strength)
        for adjust, group, strength in zip(ADJUSTMENTS.values(), groups, values, strict=True)
        if len(group)
    ]
    return torch.cat([*changed, left_alone]).index_select(0, order.argsort().to(images.device))


@lru_cache(maxsize=8)
def _table(h: int, w: int) -> Float[Tensor, "25 2 2 9"]:
    """For each sub-policy, step and sign: number of the operation, probability, value, coefficients of the movement."""
    numbers = {name: number for number, name in enumerate((*MOVEMENTS, *ADJUSTMENTS))}

    def row(name: str, probability: float, level: int, negative: bool) -> tuple[float, ...]:
        value = value_of(name, level, negative=negative, h=h, w=w)
        coefficients = MOVEMENTS[name](value, h, w) if name in MOVEMENTS else (1, 0, 0, 0, 1, 0)
        return (numbers[name], probability, value, *coefficients)

    rows = [[[row(*step, negative) for negative in (False, True)] for step in pair] for pair in CIFAR10_POLICY]
    return torch.tensor(rows, dtype=torch.float64)
