"""Standardised filters: the formula, its edges, and a model that differs from its body in nothing else."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call

from decollapse.core import ModelState
from decollapse.models import (
    MLP,
    HookedClassifier,
    MobileNetV2,
    Projected,
    ResNet8,
    ResNet20,
    SmallCNN,
    StandardizedConv2d,
    WeightStandardized,
)
from decollapse.models.weight_standardization import standardize

BODIES = [SmallCNN(norm="group"), ResNet8(width=8, norm="group"), ResNet20(width=8), MobileNetV2(norm="layer")]


class SamePadding(nn.Conv2d):
    """A convolution with a forward of its own, as other packages have them."""


def imported_network() -> nn.Module:
    """As somebody else writes it: a nested block, a bias, a depthwise and a shared convolution, a subclass."""
    shared = nn.Conv2d(4, 4, 3, padding="same", padding_mode="circular")
    block = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, groups=4))
    return nn.Sequential(
        block, shared, nn.ReLU(), shared, SamePadding(4, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )


def build_imported(input_shape, num_classes):
    return HookedClassifier(imported_network(), "7")


def draw(builder, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return builder((3, 16, 16), 10)


def naive(weight: torch.Tensor) -> torch.Tensor:
    rows = []
    for filter_ in weight.double():
        values = filter_.flatten().tolist()
        mean = sum(values) / len(values)
        std = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
        rows.append(torch.tensor([(value - mean) / (std + 1e-5) for value in values], dtype=torch.float64))
    return torch.stack(rows).reshape(weight.shape)


def test_a_filter_by_hand():
    weight = torch.tensor([1.0, 3.0, 5.0, 7.0], dtype=torch.float64).reshape(1, 1, 2, 2)
    std = (20 / 3) ** 0.5 + 1e-5
    expected = torch.tensor([-3.0, -1.0, 1.0, 3.0], dtype=torch.float64) / std
    torch.testing.assert_close(standardize(weight).flatten(), expected)


@pytest.mark.parametrize("shape", [(3, 2, 3, 3), (4, 1, 3, 3), (2, 5, 1, 1), (1, 2, 1, 1)])
def test_the_formula_filter_by_filter(shape):
    weight = torch.randn(shape, dtype=torch.float64) * 3 + 1
    torch.testing.assert_close(standardize(weight), naive(weight))
    torch.testing.assert_close(standardize(weight.float()), naive(weight).float())


def test_shift_and_scale_of_a_filter_do_not_matter():
    weight = torch.randn(3, 2, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(standardize(5 * weight - 2), standardize(weight), atol=1e-4, rtol=0)


def test_the_gradient_is_that_of_the_formula():
    weight = torch.randn(2, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(standardize, weight)


@pytest.mark.parametrize("shape", [(4, 1, 1, 1), (1, 1, 1, 1)])
def test_a_single_weight_is_used_as_it_is(shape):
    weight = torch.randn(shape, requires_grad=True)
    standardize(weight).sum().backward()
    assert torch.equal(standardize(weight), weight)
    assert torch.equal(weight.grad, torch.ones(shape))


def test_equal_weights_become_zero_with_a_finite_gradient():
    weight = torch.full((2, 1, 3, 3), 0.1, requires_grad=True)
    out = standardize(weight)
    (out * torch.randn(out.shape)).sum().backward()
    assert out.abs().max() < 1e-2  # the mean is rounded
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2},
        {"padding": 1},
        {"groups": 2},
        {"bias": False},
        {"dilation": 2},
        {"padding": "same", "padding_mode": "reflect"},
    ],
    ids=repr,
)
def test_the_layer_is_a_convolution_with_standardised_filters(options):
    layer = StandardizedConv2d(4, 6, 3, dtype=torch.float64, **options)
    plain = nn.Conv2d(4, 6, 3, dtype=torch.float64, **options)
    plain.load_state_dict(layer.state_dict())
    with torch.no_grad():
        plain.weight.copy_(naive(layer.weight.detach()))
    x = torch.randn(2, 4, 7, 7, dtype=torch.float64)
    torch.testing.assert_close(layer(x), plain(x))


def test_channels_last_gives_the_same_output_in_its_layout():
    layer, x = StandardizedConv2d(4, 6, 3, dtype=torch.float64), torch.randn(2, 4, 7, 7, dtype=torch.float64)
    expected = layer(x)
    out = layer.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(out, expected, check_stride=False)
    assert standardize(layer.weight).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("body", BODIES, ids=repr)
def test_parameters_are_the_bodys_names_and_values_included(body):
    ours, plain = ModelState.of(draw(WeightStandardized(body))), ModelState.of(draw(body))
    assert list(ours.params) == list(plain.params)
    assert list(ours.buffers) == list(plain.buffers)
    assert all(torch.equal(leaf, plain.params[name]) for name, leaf in ours.params.items())


def test_torchs_generator_is_left_where_the_body_leaves_it():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BODIES[0]((3, 16, 16), 10)
        expected = torch.rand(1)
        torch.manual_seed(0)
        WeightStandardized(BODIES[0])((3, 16, 16), 10)
        assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("body", BODIES, ids=repr)
def test_every_convolution_is_replaced_and_the_rest_is_not(body):
    ours, plain = draw(WeightStandardized(body)), draw(body)
    for (name, module), other in zip(ours.named_modules(), plain.modules(), strict=True):
        expected = StandardizedConv2d if type(other) is nn.Conv2d else type(other)
        assert type(module) is expected, name


@pytest.mark.parametrize("body", BODIES, ids=repr)
def test_the_output_is_the_bodys_with_standardised_weights(body):
    model, plain = draw(WeightStandardized(body)).double(), draw(body).double()
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        for module in plain.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_(naive(module.weight))
    torch.testing.assert_close(model(x).logits, plain(x).logits)


def test_a_functional_call_standardises_the_weights_it_is_given():
    model, other = draw(WeightStandardized(BODIES[0])), draw(WeightStandardized(BODIES[0]), seed=1)
    x = torch.randn(4, 3, 16, 16)
    assert torch.equal(functional_call(model, dict(other.named_parameters()), (x,)).logits, other(x).logits)


@pytest.mark.parametrize("body", BODIES[:3], ids=repr)
def test_the_loss_falls(body):
    model = draw(WeightStandardized(body))
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(10, (32,), generator=generator)
    x = torch.randn(10, 3, 1, 1, generator=generator)[y] + 0.3 * torch.randn(32, 3, 16, 16, generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    losses = []
    for _ in range(12):
        loss = nn.functional.cross_entropy(model(x).logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_an_imported_model_keeps_shared_layers_subclasses_and_hooks():
    model = WeightStandardized(build_imported)((3, 16, 16), 2)
    network = model.network
    assert isinstance(network[0][0], StandardizedConv2d)
    assert isinstance(network[0][2], StandardizedConv2d)
    assert isinstance(network[1], StandardizedConv2d)
    assert network[1] is network[3]
    assert type(network[4]) is SamePadding
    assert model(torch.randn(2, 3, 16, 16)).features.shape == (2, 4)


def test_wrappers_nest_in_both_orders():
    x = torch.randn(2, 3, 16, 16)
    inside = draw(Projected(WeightStandardized(ResNet8(norm="group")), widths=(5,)))
    outside = draw(WeightStandardized(Projected(ResNet8(norm="group"), widths=(5,))))
    assert isinstance(inside.encoder.conv, StandardizedConv2d)
    assert torch.equal(inside(x).logits, outside(x).logits)


def test_a_builder_is_a_value_and_its_model_pickles():
    builder = WeightStandardized(ResNet8(norm="group"))
    assert pickle.loads(pickle.dumps(builder)) == builder
    assert hash(builder) == hash(pickle.loads(pickle.dumps(builder)))
    model, x = draw(builder).eval(), torch.randn(2, 3, 16, 16)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x).logits, model(x).logits)


def test_a_model_without_convolutions_is_an_error():
    with pytest.raises(ValueError, match=r"needs a model with torch.nn.Conv2d layers, got none in MLP"):
        WeightStandardized(MLP(norm="batch"))((3, 16, 16), 10)


@pytest.mark.parametrize("body", [SmallCNN(), ResNet20(norm="none")], ids=repr)
def test_a_model_without_normalisation_is_an_error_that_says_what_to_set(body):
    with pytest.raises(ValueError, match=r'needs a model with normalisation layers, got none.*norm = "group"'):
        WeightStandardized(body)((3, 16, 16), 10)
