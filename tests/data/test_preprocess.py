from __future__ import annotations

import pickle

import pytest
import torch

from decollapse.data import CIFAR10_NORMALIZE, Normalize


def test_uint8_images_become_float32_by_the_formula_of_each_channel() -> None:
    x = torch.tensor([[[[0]], [[51]]], [[[255]], [[102]]]], dtype=torch.uint8)
    out = Normalize(mean=(0.5, 0.2), std=(0.25, 0.1))(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.flatten(), torch.tensor([-2.0, 0.0, 2.0, 2.0]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_floating_point_input_keeps_its_dtype_and_is_not_divided_by_255(dtype: torch.dtype) -> None:
    x = torch.tensor([[1.0, 10.0], [3.0, 30.0]], dtype=dtype)
    out = Normalize(mean=(1.0, 10.0), std=(2.0, 20.0))(x)
    assert torch.equal(out, torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=dtype))
    assert x[1, 0] == 3.0


def test_one_number_serves_every_channel() -> None:
    x = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    torch.testing.assert_close(Normalize(mean=(0.5,), std=(0.5,))(x), torch.ones(1, 3, 2, 2))


def test_fit_standardises_the_data_it_was_fitted_to() -> None:
    x = torch.randint(256, (50, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    out = Normalize.fit(x)(x).double()
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(out.std((0, 2, 3), correction=0), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-6)


def test_fit_agrees_with_the_plain_formula_on_more_images_than_one_chunk() -> None:
    x = torch.randint(256, (2500, 2, 3, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    exact = x.double() / 255
    fitted = Normalize.fit(x)
    assert fitted.mean == pytest.approx(exact.mean((0, 2, 3)).tolist(), rel=1e-12)
    assert fitted.std == pytest.approx(exact.std((0, 2, 3), correction=0).tolist(), rel=1e-12)


def test_a_constant_channel_is_only_shifted() -> None:
    assert Normalize.fit(torch.full((4, 1, 2, 2), 51, dtype=torch.uint8)) == Normalize((0.2,), (1.0,))
    assert Normalize.fit(torch.full((9, 1), 0.1)).std == (1.0,)


def test_cifar10_uses_the_customary_constants() -> None:
    assert CIFAR10_NORMALIZE.mean == (125.3 / 255, 123.0 / 255, 113.9 / 255)
    assert CIFAR10_NORMALIZE.std == (63.0 / 255, 62.1 / 255, 66.7 / 255)


def test_it_pickles_compares_and_hashes() -> None:
    assert pickle.loads(pickle.dumps(CIFAR10_NORMALIZE)) == CIFAR10_NORMALIZE
    assert hash(Normalize((0.0,), (1.0,))) == hash(Normalize((0.0,), (1.0,)))


def test_a_wrong_number_of_channels_is_explained() -> None:
    with pytest.raises(ValueError, match=r"for 3 channels, the batch has 1 \(shape \(2, 1, 4, 4\)\)"):
        CIFAR10_NORMALIZE(torch.zeros(2, 1, 4, 4, dtype=torch.uint8))


@pytest.mark.parametrize(("mean", "std"), [((), ()), ((0.0,), (1.0, 1.0)), ((0.0,), (0.0,)), ((0.0,), (float("nan"),))])
def test_unusable_constants_are_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="as many means as stds|every std must be positive"):
        Normalize(mean, std)
