"""Every builder keeps the promises a federation relies on."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

from decollapse.models import MLP, MobileNetV2, ResNet8, ResNet18, ResNet20, ResNet32, SmallCNN

NORMS = ["batch", "group", "layer", "none"]
NARROW = [
    MLP(),
    SmallCNN(),
    SmallCNN(features=0),
    ResNet8(width=8),
    ResNet20(width=8),
    ResNet32(width=4),
    ResNet18(width=8),
    MobileNetV2(),
]
EVERY_NORM = [replace(builder, norm=norm) for builder in NARROW for norm in NORMS]
SHAPE = (3, 8, 8)


def draw(builder, shape=SHAPE, num_classes=10, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return builder(shape, num_classes)


def count(model: nn.Module) -> int:
    return sum(param.numel() for param in model.parameters())


@pytest.mark.parametrize(
    ("builder", "shape", "params", "features"),
    [
        (MLP(hidden=(5, 4)), (2, 3), 6 * 5 + 5 + 5 * 4 + 4 + 4 * 10 + 10, 4),
        (MLP(hidden=()), (2, 3), 6 * 10 + 10, 6),
        (SmallCNN(), (3, 32, 32), 250_682, 128),
        (SmallCNN(), (1, 28, 28), 164_234, 128),
        (SmallCNN(features=0), (3, 32, 32), 53_626, 96),
        (ResNet8(), (3, 32, 32), 75_290, 64),
        (ResNet20(), (3, 32, 32), 269_722, 64),
        (ResNet32(), (3, 32, 32), 464_154, 64),
        (ResNet18(), (3, 32, 32), 11_173_962, 512),
        (MobileNetV2(), (3, 32, 32), 2_296_922, 1280),
    ],
    ids=lambda value: repr(value) if not isinstance(value, int) else "",
)
def test_parameters_and_features_are_the_published_numbers(builder, shape, params, features):
    model = builder(shape, 10)
    assert count(model) == params
    assert model.head.in_features == features


@pytest.mark.parametrize("builder", EVERY_NORM, ids=repr)
def test_output_has_post_relu_features_and_the_heads_logits(builder):
    model = draw(builder)
    output = model(torch.randn(3, *SHAPE))
    assert output.logits.shape == (3, 10)
    assert output.features.shape == (3, model.head.in_features)
    assert output.features.min() >= 0
    assert torch.equal(output.logits, model.head(output.features))


@pytest.mark.parametrize("builder", EVERY_NORM, ids=repr)
def test_loss_falls_on_a_batch_it_sees_again_and_again(builder):
    model = draw(builder)
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(10, (32,), generator=generator)
    # A class is a colour: what global pooling throws away is not what has to be learned.
    x = torch.randn(10, 3, 1, 1, generator=generator)[y] + 0.3 * torch.randn(32, *SHAPE, generator=generator)
    lr = 0.01 if isinstance(builder, MobileNetV2) else 0.02  # the deepest one, without norm, is only promised at 0.01
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    losses = []
    for _ in range(12):
        loss = nn.functional.cross_entropy(model(x).logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("builder", EVERY_NORM, ids=repr)
def test_one_example_trains_and_evaluates(builder):
    model = draw(builder)
    x = torch.randn(1, *SHAPE)
    model.train()(x).logits.sum().backward()
    assert all(param.grad is None or param.grad.isfinite().all() for param in model.parameters())
    assert model.eval()(x).logits.isfinite().all()


@pytest.mark.parametrize("builder", NARROW, ids=repr)
def test_channels_last_and_double_precision_agree_with_the_default(builder):
    x = torch.randn(4, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    reference = draw(builder).double()(x).logits
    layout = torch.channels_last
    other = draw(builder).double().to(memory_format=layout)(x.contiguous(memory_format=layout)).logits
    torch.testing.assert_close(other, reference)
    torch.testing.assert_close(draw(builder)(x.float()).logits.double(), reference, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("builder", EVERY_NORM, ids=repr)
def test_weights_are_a_function_of_torchs_seed(builder):
    first, again, other = (draw(builder, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(leaf, again[name]) for name, leaf in first.items())
    assert any(not torch.equal(leaf, other[name]) for name, leaf in first.items())


@pytest.mark.parametrize("builder", EVERY_NORM, ids=repr)
def test_builders_are_values(builder):
    assert pickle.loads(pickle.dumps(builder)) == builder
    assert hash(builder) == hash(pickle.loads(pickle.dumps(builder)))


@pytest.mark.parametrize(
    ("builder", "names"),
    [
        (MLP(), "e3a85dee025fdd02"),
        (SmallCNN(), "e5abdd452b6e0b89"),
        (ResNet20(), "5c64405dc51c3378"),
        (ResNet32(), "c0bb5b24a9083c95"),
        (ResNet18(), "76c9e7def792ebbb"),
        (MobileNetV2(), "8a37c5e1c1d412ae"),
    ],
    ids=lambda value: repr(value),
)
def test_state_dict_names_are_stable(builder, names):
    """Checkpoints and federations match tensors by name; a change here breaks both, so it must be deliberate."""
    found = "\n".join(f"{name} {tuple(leaf.shape)}" for name, leaf in builder((3, 32, 32), 10).state_dict().items())
    assert hashlib.sha256(found.encode()).hexdigest()[:16] == names


@pytest.mark.parametrize("builder", [ResNet18(width=8), MobileNetV2(), SmallCNN()], ids=repr)
def test_larger_images_work(builder):
    assert builder((3, 64, 64), 200).eval()(torch.zeros(2, 3, 64, 64)).logits.shape == (2, 200)


@pytest.mark.parametrize("builder", NARROW[1:], ids=repr)
def test_gray_images_of_odd_size_work(builder):
    assert builder((1, 28, 28), 10).eval()(torch.zeros(2, 1, 28, 28)).logits.shape == (2, 10)


@pytest.mark.parametrize("builder", NARROW[1:], ids=repr)
def test_vectors_are_an_error_that_names_the_mlp(builder):
    with pytest.raises(ValueError, match=r"got examples of shape \(64,\); use MLP"):
        builder((64,), 10)


def test_images_too_small_to_pool_are_an_error():
    with pytest.raises(ValueError, match="at least 8 x 8, got 4 x 8"):
        SmallCNN()((3, 4, 8), 10)


@pytest.mark.parametrize("builder", [ResNet8, ResNet20, ResNet32, ResNet18])
def test_a_width_below_one_is_an_error(builder):
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        builder(width=0)


@pytest.mark.parametrize("fields", [{"channels": ()}, {"features": -1}, {"channels": (8, 0)}], ids=repr)
def test_an_impossible_small_cnn_is_an_error(fields):
    with pytest.raises(ValueError, match="at least one convolution and positive widths"):
        SmallCNN(**fields)


def test_an_impossible_mlp_is_an_error():
    with pytest.raises(ValueError, match="at least 1"):
        MLP(hidden=(4, 0))


@pytest.mark.parametrize("builder", [MLP, SmallCNN, ResNet8, ResNet20, ResNet32, ResNet18, MobileNetV2])
def test_an_unknown_norm_is_an_error_before_any_data_is_seen(builder):
    with pytest.raises(ValueError, match="norm must be one of"):
        builder(norm="instance")


@pytest.mark.parametrize("builder", [ResNet20(width=8, norm="none"), ResNet18(width=8, norm="none")], ids=repr)
def test_without_norm_residual_branches_start_at_zero(builder):
    model = draw(builder)
    x = torch.randn(2, model.encoder.stage1[0].conv1.in_channels, 8, 8).relu()
    assert torch.equal(model.encoder.stage1[0](x), x)


@pytest.mark.parametrize("builder", EVERY_NORM, ids=repr)
def test_most_features_are_alive_before_training(builder):
    model, x = draw(builder), torch.randn(64, *SHAPE, generator=torch.Generator().manual_seed(0))
    assert (model.train()(x).features == 0).all(dim=0).float().mean() < 0.5


@pytest.mark.parametrize(("builder", "layers"), [(ResNet8(), 8), (ResNet20(), 20), (ResNet32(), 32)], ids=repr)
def test_a_cifar_network_has_as_many_weight_layers_as_its_name_says(builder, layers):
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in draw(builder).modules()) == layers


def test_networks_of_one_family_and_the_same_settings_are_not_equal():
    assert ResNet20() == ResNet20(width=16)
    assert ResNet20() != ResNet32()
