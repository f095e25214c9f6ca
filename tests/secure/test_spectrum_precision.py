"""Fixed point keeps the small eigenvalues of a collapsed spectrum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from decollapse.feature_statistics import FeatureStatistics
from decollapse.secure.encoding import FixedPoint, Layout
from decollapse.spectrum import eigenvalues

CLIENTS, EXAMPLES, FEATURES = 10, 300, 9


def collapsed(scale: float) -> Tensor:
    """Features whose eigenvalues go down to 10^-8 of the largest."""
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn(CLIENTS * EXAMPLES, FEATURES, generator=generator, dtype=torch.float64)
    columns, _ = torch.linalg.qr(columns - columns.mean(dim=0))
    rotation, _ = torch.linalg.qr(torch.randn(FEATURES, FEATURES, generator=generator, dtype=torch.float64))
    return scale * columns * 10.0 ** -torch.linspace(0, 4, FEATURES, dtype=torch.float64) @ rotation.T


def found(features: Tensor, fixed: FixedPoint, dtype: torch.dtype) -> Tensor:
    """From the secure sum of the clients' statistics, sent with the digits of `dtype`."""
    sums = [FeatureStatistics.of(part).sums() for part in features.split(EXAMPLES)]
    layout = Layout(tuple((name, tuple(leaf.shape), str(dtype)) for name, leaf in sums[0].items()))
    words = np.sum([fixed.encode(each, layout) for each in sums], axis=0, dtype=np.uint64)
    return eigenvalues(FeatureStatistics.from_sums(fixed.decode(words, layout)).covariance())


def reference(features: Tensor) -> Tensor:
    """By the singular values of the pooled features, which never square a small number."""
    return torch.linalg.svdvals(features - features.mean(dim=0)).square() / len(features)


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e3])
def test_float64_sums_keep_an_eigenvalue_at_a_hundred_millionth_of_the_largest(scale: float) -> None:
    features = collapsed(scale * (CLIENTS * EXAMPLES) ** 0.5)
    exact = reference(features)
    assert float(exact[-1] / exact[0]) == pytest.approx(1e-8)
    relative = (found(features, FixedPoint(50), torch.float64) - exact).abs() / exact
    assert relative.max() < 1e-8  # as of the plain sums in float64


def test_one_word_would_not_keep_it() -> None:
    features = collapsed((CLIENTS * EXAMPLES) ** 0.5)
    exact = reference(features)
    relative = (found(features, FixedPoint(50), torch.float32) - exact).abs() / exact
    assert relative[-1] > 1e-5
    assert relative[0] < 1e-8
