"""Batched augmentation against one image at a time through Pillow: `python benchmarks/augmentation.py [--repeats N]`.

Both sides start from uint8 images in memory and end with a normalised float32 batch, on one thread. They take turns, so
that whatever else the machine does slows both; CPU seconds of the thread are counted, and the ratio of the medians is
printed. The Pillow side is what torchvision's transforms do to Pillow images, without torchvision's own overhead.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from decollapse.data import CIFAR10_NORMALIZE, AutoAugment, Crop, Flip
from decollapse.data.autoaugment import CIFAR10_POLICY, MOVEMENTS, value_of

ENHANCERS = {
    "Color": ImageEnhance.Color,
    "Contrast": ImageEnhance.Contrast,
    "Brightness": ImageEnhance.Brightness,
    "Sharpness": ImageEnhance.Sharpness,
}
POINTWISE: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "Posterize": lambda image, bits: ImageOps.posterize(image, int(bits)),
    "Solarize": lambda image, threshold: ImageOps.solarize(image, int(threshold)),
    "AutoContrast": lambda image, _: ImageOps.autocontrast(image),
    "Equalize": lambda image, _: ImageOps.equalize(image),
    "Invert": lambda image, _: ImageOps.invert(image),
}


def pillow_operation(image: Image.Image, name: str, value: float) -> Image.Image:
    """One AutoAugment operation on one image."""
    if name in MOVEMENTS:
        return image.transform(image.size, Image.Transform.AFFINE, MOVEMENTS[name](value, image.height, image.width))
    if name in ENHANCERS:
        return ENHANCERS[name](image).enhance(value)
    return POINTWISE[name](image, value)


def pillow_one(pixels: np.ndarray, rng: random.Random, *, autoaugment: bool) -> Tensor:
    """Pad, crop, flip, perhaps AutoAugment, and normalise one image."""
    height, width = pixels.shape[:2]
    image = ImageOps.expand(Image.fromarray(pixels), 4)
    left, top = rng.randrange(9), rng.randrange(9)
    image = image.crop((left, top, left + width, top + height))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if autoaugment:
        for name, probability, level in rng.choice(CIFAR10_POLICY):
            if rng.random() < probability:
                value = value_of(name, level, negative=rng.random() < 0.5, h=height, w=width)
                image = pillow_operation(image, name, value)
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(255)
    return x.sub_(MEAN).div_(STD)


MEAN = torch.tensor(CIFAR10_NORMALIZE.mean)[:, None, None]
STD = torch.tensor(CIFAR10_NORMALIZE.std)[:, None, None]


def sample_images(count: int) -> np.ndarray:
    """Smooth random colour images, (count, 32, 32, 3): Pillow's speed hardly depends on what they show."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    fine = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic").clamp(0, 1)
    return (fine * 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


def compare(batch_size: int, repeats: int, *, autoaugment: bool) -> None:
    """Print the medians and their ratio for one batch size."""
    pixels = sample_images(batch_size)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    generator, rng = torch.Generator().manual_seed(0), random.Random(0)
    steps = (Crop(padding=4), Flip(), *((AutoAugment(),) if autoaugment else ()))

    def batched() -> Tensor:
        batch = images
        for step in steps:
            batch = step(batch, generator)
        return CIFAR10_NORMALIZE(batch)

    def one_by_one() -> Tensor:
        return torch.stack([pillow_one(image, rng, autoaugment=autoaugment) for image in pixels])

    seconds: dict[Callable[[], Tensor], list[float]] = {batched: [], one_by_one: []}
    for _ in range(repeats):
        for side, times in seconds.items():
            started = time.thread_time()
            side()
            times.append(time.thread_time() - started)
    ours, pillow = (statistics.median(times) / batch_size * 1e6 for times in seconds.values())
    best = min(seconds[one_by_one]) / min(seconds[batched])
    what = "crop, flip, AutoAugment, normalise" if autoaugment else "crop, flip, normalise"
    print(
        f"{what:35} batch {batch_size:4}: batched {ours:6.2f} us/image, Pillow {pillow:6.1f}, "
        f"{pillow / ours:5.1f}x (best of each: {best:.1f}x)"
    )


def main() -> None:
    """Compare at a training batch of 64 and at 512."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=41)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    for autoaugment in (False, True):
        for batch_size in (64, 512):
            compare(batch_size, repeats, autoaugment=autoaugment)


if __name__ == "__main__":
    main()
