"""Every operation equals Pillow's to the last bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from decollapse.data import image_ops
from decollapse.data.autoaugment import ADJUSTMENTS, MOVEMENTS, value_of

Image = pytest.importorskip("PIL.Image", reason="Pillow is the reference")
ImageEnhance = pytest.importorskip("PIL.ImageEnhance")
ImageOps = pytest.importorskip("PIL.ImageOps")


def pictures() -> dict[str, np.ndarray]:
    """Batches (n, h, w) or (n, h, w, 3) with what the operations trip over: noise, few values, constants, odd sizes."""
    rng = np.random.RandomState(0)
    smooth = np.clip(rng.randn(6, 8, 8, 3).repeat(4, 1).repeat(4, 2) * 40 + rng.randn(6, 1, 1, 3) * 30 + 120, 0, 255)
    return {
        "smooth": smooth.astype(np.uint8),
        "noise": rng.randint(0, 256, (6, 20, 33, 3)).astype(np.uint8),
        "grey": rng.randint(30, 200, (6, 28, 28)).astype(np.uint8),
        "two values": (rng.rand(5, 12, 12, 3) > 0.5).astype(np.uint8) * 90 + 3,
        "constant": np.full((1, 8, 8, 3), 7, np.uint8),
        "ramp": np.arange(8, dtype=np.uint8).repeat(24).reshape(1, 8, 8, 3),
    }


PICTURES = pictures()
REFERENCE: dict[str, Callable] = {
    "Color": lambda image, value: ImageEnhance.Color(image).enhance(value),
    "Contrast": lambda image, value: ImageEnhance.Contrast(image).enhance(value),
    "Brightness": lambda image, value: ImageEnhance.Brightness(image).enhance(value),
    "Sharpness": lambda image, value: ImageEnhance.Sharpness(image).enhance(value),
    "Posterize": lambda image, value: ImageOps.posterize(image, int(value)),
    "Solarize": lambda image, value: ImageOps.solarize(image, value),
    "AutoContrast": lambda image, _: ImageOps.autocontrast(image),
    "Equalize": lambda image, _: ImageOps.equalize(image),
    "Invert": lambda image, _: ImageOps.invert(image),
    "Rotate": lambda image, value: image.rotate(value),
    "ShearX": lambda image, value: image.transform(image.size, Image.Transform.AFFINE, (1, value, 0, 0, 1, 0)),
    "ShearY": lambda image, value: image.transform(image.size, Image.Transform.AFFINE, (1, 0, 0, value, 1, 0)),
    "TranslateX": lambda image, value: image.transform(
        image.size, Image.Transform.AFFINE, (1, 0, -int(value), 0, 1, 0)
    ),
    "TranslateY": lambda image, value: image.transform(
        image.size, Image.Transform.AFFINE, (1, 0, 0, 0, 1, -int(value))
    ),
}


def to_batch(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy((pixels if pixels.ndim == 4 else pixels[..., None]).transpose(0, 3, 1, 2).copy())


def ours(name: str, batch: Tensor, values: list[float]) -> Tensor:
    if name in MOVEMENTS:
        h, w = batch.shape[2:]
        return image_ops.warp(batch, torch.tensor([MOVEMENTS[name](value, h, w) for value in values]).double())
    return ADJUSTMENTS[name](batch, torch.tensor(values, dtype=torch.float64))


@pytest.mark.parametrize("what", PICTURES)
@pytest.mark.parametrize("name", [*MOVEMENTS, *ADJUSTMENTS])
def test_equals_pillow_at_every_level_and_sign(name: str, what: str) -> None:
    pixels = PICTURES[what]
    h, w = pixels.shape[1:3]
    for level in range(10):
        for negative in (False, True):
            value = value_of(name, level, negative=negative, h=h, w=w)
            expected = np.stack([np.asarray(REFERENCE[name](Image.fromarray(image), value)) for image in pixels])
            out = ours(name, to_batch(pixels), [value] * len(pixels))
            assert torch.equal(out, to_batch(expected)), f"level {level}, value {value}"


@pytest.mark.parametrize("name", [*MOVEMENTS, *ADJUSTMENTS])
def test_each_image_follows_its_own_value(name: str) -> None:
    batch = to_batch(PICTURES["noise"])
    values = [value_of(name, level, negative=level % 2 == 1, h=20, w=33) for level in (1, 3, 4, 6, 8, 9)]
    together = ours(name, batch, values)
    alone = torch.cat([ours(name, batch[i : i + 1], values[i : i + 1]) for i in range(6)])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("name", ["Sharpness", "Equalize", "AutoContrast", "Rotate"])
def test_images_of_one_pixel_survive(name: str) -> None:
    one = torch.full((2, 3, 1, 1), 9, dtype=torch.uint8)
    assert torch.equal(ours(name, one, [0.0, 0.0]), one)
