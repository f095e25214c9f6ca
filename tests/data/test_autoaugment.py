from __future__ import annotations

import pytest
import torch
from torch import Tensor

from decollapse.data import AutoAugment, image_ops
from decollapse.data.autoaugment import ADJUSTMENTS, CIFAR10_POLICY, MOVEMENTS, value_of


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def one_by_one(images: Tensor, generator: torch.Generator) -> Tensor:
    """The same draws, each image alone, its two operations one after the other."""
    n, _, h, w = images.shape
    policy = torch.randint(25, (n,), generator=generator)
    coins = torch.rand(2, n, generator=generator)
    negative = torch.randint(2, (2, n), generator=generator).bool()
    out = []
    for index in range(n):
        image = images[index : index + 1]
        for step, (name, probability, level) in enumerate(CIFAR10_POLICY[policy[index]]):
            if coins[step, index] >= probability:
                continue
            value = value_of(name, level, negative=bool(negative[step, index]), h=h, w=w)
            if name in MOVEMENTS:
                image = image_ops.warp(image, torch.tensor([MOVEMENTS[name](value, h, w)]).double())
            else:
                image = ADJUSTMENTS[name](image, torch.tensor([value], dtype=torch.float64))
        out.append(image)
    return torch.cat(out)


@pytest.mark.parametrize("shape", [(400, 3, 16, 16), (100, 1, 28, 28), (60, 3, 9, 14)])
def test_grouping_by_operation_changes_nothing(shape: tuple[int, ...]) -> None:
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator(1))
    assert torch.equal(AutoAugment()(images, generator()), one_by_one(images, generator()))


def test_the_policy_is_25_pairs_with_probabilities_and_levels() -> None:
    steps = [step for pair in CIFAR10_POLICY for step in pair]
    assert (len(CIFAR10_POLICY), len(steps)) == (25, 50)
    assert {name for name, _, _ in steps} <= MOVEMENTS.keys() | ADJUSTMENTS.keys()
    assert all(0 <= probability <= 1 and 0 <= level <= 9 for _, probability, level in steps)


@pytest.mark.parametrize(
    ("name", "level", "negative", "value"),
    [
        ("ShearX", 9, False, 0.3),
        ("TranslateX", 9, False, 150 / 331 * 40),
        ("TranslateY", 9, True, -150 / 331 * 20),
        ("Rotate", 3, False, 10.0),
        ("Color", 9, True, 0.1),
        ("Contrast", 0, True, 1.0),
        ("Posterize", 9, True, 4),
        ("Posterize", 7, False, 5),
        ("Solarize", 0, True, 255),
        ("Solarize", 9, False, 0),
        ("Equalize", 5, False, 0),
    ],
)
def test_levels_mean_what_torchvision_says(name: str, level: int, negative: bool, value: float) -> None:
    assert value_of(name, level, negative=negative, h=20, w=40) == pytest.approx(value)


def test_an_empty_batch_stays_empty() -> None:
    assert AutoAugment()(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), generator()).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    "images", [torch.zeros(2, 3, 8, 8), torch.zeros(2, 4, 8, 8, dtype=torch.uint8), torch.zeros(2, 5)]
)
def test_other_inputs_are_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"needs uint8 images \(n, 1 or 3 channels, h, w\), got"):
        AutoAugment()(images, generator())
