"""The four normalisations, and batches of one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from decollapse.models import BatchNorm, norm_layer
from decollapse.models.norm import num_groups


@given(st.integers(1, 4096))
def test_groups_divide_the_channels_and_hold_eight_or_all(channels):
    groups = num_groups(channels)
    assert channels % groups == 0
    assert 1 <= groups <= 32
    assert groups == 1 or channels // groups >= 8


@pytest.mark.parametrize("shape", [(6, 16), (6, 16, 4, 4)])
def test_layer_normalises_all_channels_and_pixels_of_an_example(shape):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    dims = tuple(range(1, x.ndim))
    expected = (x - x.mean(dims, keepdim=True)) / (x.var(dims, keepdim=True, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(norm_layer("layer", 16).double()(x), expected)


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 4, 4)])
def test_batch_norm_is_pytorchs_in_training_and_evaluation(shape):
    ours = BatchNorm(3)
    theirs = nn.BatchNorm1d(3) if len(shape) == 2 else nn.BatchNorm2d(3)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.eval()(x), theirs.eval()(x))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(leaf, theirs.state_dict()[name]) for name, leaf in ours.state_dict().items())


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_one_value_a_channel_uses_running_statistics_and_leaves_them(shape):
    layer = BatchNorm(3)
    layer.running_mean.fill_(2.0)
    layer.running_var.fill_(4.0)
    before = {name: leaf.clone() for name, leaf in layer.state_dict().items()}
    out = layer(torch.full(shape, 6.0))
    torch.testing.assert_close(out, torch.full(shape, 2.0), atol=1e-5, rtol=0)
    assert all(torch.equal(leaf, before[name]) for name, leaf in layer.state_dict().items())


def test_none_changes_nothing():
    x = torch.randn(4, 3, 2, 2)
    assert torch.equal(norm_layer("none", 3)(x), x)


def test_an_unknown_norm_is_an_error_that_lists_the_four():
    with pytest.raises(ValueError, match="'batch', 'group', 'layer', 'none', got 'instance'"):
        norm_layer("instance", 3)


def test_sequences_are_refused_by_batch_norm():
    with pytest.raises(ValueError, match=r"got \(2, 3, 4\)"):
        BatchNorm(3)(torch.zeros(2, 3, 4))
