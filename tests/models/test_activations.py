"""Activations of named layers: the right numbers, the model untouched, and mistakes in one sentence."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from decollapse.core import ModelState
from decollapse.models import MLP, Classifier, HookedClassifier, MobileNetV2, ResNet8, SmallCNN, forward, recorded


class Tokens(nn.Module):
    """A sequence model whose attention returns a tuple, and that calls one layer twice and one never."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.twice = nn.Linear(6, 6)
        self.unused = nn.Linear(6, 6)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.fc(self.twice(self.twice(tokens)).mean(1))


class Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten()


def tokens_model() -> HookedClassifier:
    return HookedClassifier(Tokens(), "fc")


def no_hooks(model: nn.Module) -> bool:
    return not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_pooling_by_hand():
    model = Classifier(nn.Sequential(nn.Identity(), nn.Flatten()), nn.Linear(8, 2))
    x = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]], [[0.0, 0.0], [0.0, 4.0]]]])
    output = forward(model, x, ("encoder.0", "encoder.1"))
    assert output.layers["encoder.0"].tolist() == [[3.0, 1.0]]
    assert output.layers["encoder.1"].tolist() == [[1.0, 2.0, 3.0, 6.0, 0.0, 0.0, 0.0, 4.0]]


def test_maps_are_averaged_over_pixels_at_any_depth(x):
    model = ResNet8(width=4)((3, 8, 8), 10).eval()
    output = forward(model, x, ("encoder.conv", "encoder.stage2.0", "head"))
    encoder = model.encoder
    torch.testing.assert_close(output.layers["encoder.conv"], encoder.conv(x).mean((2, 3)))
    stage2 = encoder.stage2(encoder.stage1(encoder.relu(encoder.norm(encoder.conv(x)))))
    torch.testing.assert_close(output.layers["encoder.stage2.0"], stage2.mean((2, 3)))
    assert torch.equal(output.layers["head"], output.logits)


def test_sequences_are_averaged_over_tokens():
    model, x = tokens_model(), torch.randn(5, 7, 4)
    output = forward(model, x, ("network.embed",))
    torch.testing.assert_close(output.layers["network.embed"], model.network.embed(x).mean(1))


def test_logits_and_features_are_those_of_the_model_alone(x):
    model = SmallCNN()((3, 8, 8), 10)
    plain, output = model(x), forward(model, x, ("encoder.conv2",))
    assert torch.equal(output.logits, plain.logits)
    assert torch.equal(output.features, plain.features)
    assert list(output.layers) == ["encoder.conv2"]


def test_without_layers_it_is_the_model_itself(x):
    seen = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> str:
            seen.append(no_hooks(self))
            return "the very object"

    assert forward(Spy(), x) == "the very object"
    assert forward(Spy(), x, ()) == "the very object"
    assert seen == [True, True]


def test_a_later_in_place_layer_changes_neither_vectors_nor_maps():
    maps = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(inplace=True), nn.Flatten())
    vectors = nn.Sequential(nn.Flatten(), nn.Linear(1, 1), nn.ReLU(inplace=True))
    for encoder, layer in ((maps, "encoder.0"), (vectors, "encoder.1")):
        for param in encoder.parameters():
            nn.init.constant_(param, -1.0)
        output = forward(Classifier(encoder, nn.Linear(1, 2)), torch.ones(1, 1, 1, 1), (layer,))
        assert output.layers[layer].item() == -2.0
        output.layers[layer].sum().backward()  # nor is the graph broken


def test_gradients_flow_through_an_activation_into_the_layers_before_it(x):
    model = SmallCNN()((3, 8, 8), 10)
    forward(model, x, ("encoder.relu1",)).layers["encoder.relu1"].square().sum().backward()
    assert model.encoder.conv1.weight.grad.abs().sum() > 0
    assert model.encoder.conv2.weight.grad is None


@pytest.mark.parametrize("model", [MobileNetV2()((3, 8, 8), 10), ResNet8()((3, 8, 8), 10), MLP()((3, 8, 8), 10)])
def test_every_layer_that_is_called_once_can_be_recorded(model, x):
    relus = {name for name, module in model.named_modules() if "encoder.stage" in name and isinstance(module, nn.ReLU)}
    layers = tuple(name for name, module in model.named_modules() if name and name not in relus)
    output = forward(model.eval(), x, layers)
    assert set(output.layers) == set(layers)
    assert all(activation.shape[0] == 5 and activation.ndim == 2 for activation in output.layers.values())


def test_a_functional_call_is_a_forward_with_its_own_weights(x):
    model = SmallCNN()((3, 8, 8), 10)
    other = ModelState.of(SmallCNN()((3, 8, 8), 10))
    with recorded(model, ("encoder.conv1",)) as seen, torch.no_grad():
        output = functional_call(model, other.params | other.buffers, (x,))
    other.load_into(model)
    again = forward(model, x, ("encoder.conv1",))
    assert torch.equal(output.logits, again.logits)
    assert torch.equal(seen["encoder.conv1"], again.layers["encoder.conv1"])
    assert not seen["encoder.conv1"].requires_grad


def test_a_hooked_classifier_is_recorded_at_its_own_layer_too():
    model, x = HookedClassifier(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), "2"), torch.randn(5, 4)
    output = forward(model, x, ("network.1", "network.2"))
    assert torch.equal(output.layers["network.1"], output.features)
    assert torch.equal(output.layers["network.2"], output.logits)


def test_a_second_pass_replaces_the_first(x):
    model = SmallCNN()((3, 8, 8), 10)
    with recorded(model, ("encoder.conv1",)) as seen:
        model(x)
        first = seen["encoder.conv1"]
        model(2 * x)
    assert torch.equal(seen["encoder.conv1"], forward(model, 2 * x, ("encoder.conv1",)).layers["encoder.conv1"])
    assert not torch.equal(seen["encoder.conv1"], first)


def test_a_layer_named_twice_is_recorded_once(x):
    output = forward(SmallCNN()((3, 8, 8), 10), x, ("encoder.conv1", "encoder.conv1"))
    assert list(output.layers) == ["encoder.conv1"]


def test_the_model_is_left_without_hooks_even_after_an_error(x):
    model = SmallCNN()((3, 8, 8), 10)
    forward(model, x, ("encoder.conv1",))
    assert no_hooks(model)
    with pytest.raises(RuntimeError):
        forward(model, x[:, :1], ("encoder.conv1",))
    with pytest.raises(ValueError, match="no layer"):
        forward(model, x, ("encoder.conv1", "nothing"))
    assert no_hooks(model)


def test_no_activation_is_kept_alive_by_the_model(x):
    model = SmallCNN()((3, 8, 8), 10)
    alive = weakref.ref(forward(model, x, ("encoder.conv1",)).layers["encoder.conv1"])
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("name", ["encoder.stage2.5", "stage2.0", "network.encoder", "", "head.weight"])
def test_an_unknown_layer_is_an_error_with_the_nearest_names(name, x):
    with pytest.raises(ValueError, match=f"the model has no layer '{name}'; the nearest names are \\w"):
        forward(ResNet8()((3, 8, 8), 10), x, (name,))


def test_the_nearest_name_of_a_wrapped_network_has_its_prefix():
    with pytest.raises(ValueError, match="no layer 'embed'; the nearest names are network.embed"):
        forward(tokens_model(), torch.zeros(2, 7, 4), ("embed",))


def test_features_are_no_layer(x):
    with pytest.raises(ValueError, match="'features' is the classifier's input"):
        forward(SmallCNN()((3, 8, 8), 10), x, ("features",))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("network.unused", "layer 'network.unused' must be called once in a forward, was never called"),
        ("network.twice", "layer 'network.twice' must be called once in a forward, was called again"),
        ("network.attention", "output of layer 'network.attention' must be a tensor, got tuple"),
    ],
)
def test_a_layer_that_gives_no_one_tensor_is_an_error(layer, message):
    model = tokens_model()
    with pytest.raises(ValueError, match=message):
        forward(model, torch.zeros(2, 7, 4), (layer,))
    assert no_hooks(model)


def test_a_layer_missed_in_the_second_pass_is_an_error_there():
    model = tokens_model()
    model.network.forward = lambda x: model.network.fc(x.mean(1))
    with recorded(model, ("network.embed",)) as seen:
        with pytest.raises(ValueError, match="never called"):
            model(torch.zeros(2, 7, 6))
        assert seen == {}


@pytest.mark.parametrize(
    ("layer", "shape"), [(Flat(), r"\(6,\)"), (nn.Unflatten(1, (1, 1, 1, 3)), r"\(2, 1, 1, 1, 3\)")]
)
def test_an_activation_of_another_rank_is_an_error_with_its_shape(layer, shape):
    model = Classifier(
        nn.Sequential(layer, nn.Unflatten(0, (2, -1)) if isinstance(layer, Flat) else nn.Flatten()), nn.Linear(3, 2)
    )
    with pytest.raises(ValueError, match=rf"'encoder.0' must have shape \(n, d\), .*got {shape}"):
        forward(model, torch.zeros(2, 3), ("encoder.0",))
