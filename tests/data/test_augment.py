from __future__ import annotations

import pytest
import torch

from decollapse.data import AutoAugment, Crop, Flip
from decollapse.data.augment import Augmentation

AUGMENTATIONS = [Crop(padding=3), Flip(), AutoAugment()]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(n: int = 20, channels: int = 3, h: int = 12, w: int = 10) -> torch.Tensor:
    return torch.randint(256, (n, channels, h, w), dtype=torch.uint8, generator=generator(99))


def each() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("augment", AUGMENTATIONS, ids=lambda augment: type(augment).__name__)


@each()
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_dtype_and_input_are_kept(augment: Augmentation, channels: int) -> None:
    images = random_images(channels=channels)
    before = images.clone()
    out = augment(images, generator())
    assert (out.shape, out.dtype, out.is_contiguous()) == (images.shape, torch.uint8, True)
    assert torch.equal(images, before)


@each()
def test_the_result_is_a_function_of_the_generator_alone(augment: Augmentation) -> None:
    images = random_images()
    first = augment(images, generator(5))
    torch.rand(7)
    assert torch.equal(first, augment(images, generator(5)))
    assert not torch.equal(first, augment(images, generator(6)))


@each()
def test_strided_batches_and_single_images_work(augment: Augmentation) -> None:
    images = random_images()
    channels_last = images.to(memory_format=torch.channels_last)
    assert torch.equal(augment(images, generator()), augment(channels_last, generator()))
    assert augment(images[:1], generator()).shape == images[:1].shape


def test_a_crop_is_a_window_of_the_zero_padded_image() -> None:
    images = random_images(n=200)
    padded = torch.nn.functional.pad(images, [3] * 4)
    places = set()
    for image, frame in zip(Crop(padding=3)(images, generator()), padded, strict=True):
        found = [
            (top, left)
            for top in range(7)
            for left in range(7)
            if torch.equal(frame[:, top : top + 12, left : left + 10], image)
        ]
        assert len(found) == 1
        places.update(found)
    assert len(places) > 40  # of 49: every place can be drawn


def test_crop_draws_each_offset_equally_often() -> None:
    images = torch.zeros(20_000, 1, 3, 3, dtype=torch.uint8)
    images[:, :, 1, 1] = 255
    counts = Crop(padding=1)(images, generator()).bool().sum(0).flatten()
    assert torch.all((counts - 20_000 / 9).abs() < 200)  # over 4 standard deviations


def test_no_padding_changes_nothing() -> None:
    images = random_images()
    assert torch.equal(Crop(padding=0)(images, generator()), images)


def test_flip_mirrors_left_to_right_or_leaves_alone() -> None:
    images = random_images(n=2000, channels=1, h=2, w=3)
    out = Flip(p=0.25)(images, generator())
    mirrored = (out == images.flip(3)).flatten(1).all(1)
    untouched = (out == images).flatten(1).all(1)
    assert torch.all(mirrored | untouched)
    assert 0.2 < (~untouched).double().mean() < 0.3


@pytest.mark.parametrize(("p", "flipped"), [(0.0, False), (1.0, True)])
def test_certain_coins(p: float, flipped: bool) -> None:
    images = random_images()
    assert torch.equal(Flip(p=p)(images, generator()), images.flip(3) if flipped else images)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="padding must be at least 0 pixels, got -1"):
        Crop(padding=-1)
    with pytest.raises(ValueError, match=r"p is a probability from 0 to 1, got 1\.5"):
        Flip(p=1.5)


@pytest.mark.parametrize("augment", AUGMENTATIONS[:2], ids=["Crop", "Flip"])
def test_a_table_of_features_is_refused(augment: Augmentation) -> None:
    with pytest.raises(ValueError, match=r"images \(n, channels, h, w\), got a batch of shape \(4, 13\)"):
        augment(torch.zeros(4, 13), generator())
