"""Features are taken where the user says, or an error says why not."""

from __future__ import annotations

import copy
import gc
import io
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from decollapse.models import Classifier, HookedClassifier


class Net(nn.Module):
    """As torchvision writes them: convolution, pooling, flatten, dropout-and-linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.unused = nn.Linear(6, 6)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.pool(self.act(self.conv(x)))
        return self.fc(maps.flatten(1))


class Returns(nn.Module):
    """A linear network that returns what `wrap` makes of its logits."""

    def __init__(self, wrap) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.wrap = wrap

    def forward(self, x: Tensor):
        return self.wrap(self.fc(x))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_classifier_logits_are_the_head_of_the_features():
    model = Classifier(nn.Flatten(), nn.Linear(2, 1))
    with torch.no_grad():
        model.head.weight.copy_(torch.tensor([[2.0, 3.0]]))
        model.head.bias.fill_(1.0)
    output = model(torch.tensor([[1.0, 10.0]]))
    assert output.features.tolist() == [[1.0, 10.0]]
    assert output.logits.tolist() == [[33.0]]


def test_classifier_says_how_to_pool_feature_maps():
    with pytest.raises(ValueError, match=r"shape \(n, d\), got \(2, 6, 4, 4\).*AdaptiveAvgPool2d"):
        Classifier(nn.Conv2d(3, 6, 3), nn.Linear(6, 2))(torch.zeros(2, 3, 6, 6))


def test_classifier_compiles_without_a_graph_break(x):
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), nn.Linear(3, 2))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x).features, model(x).features)


def test_hooked_input_is_the_input_of_the_layer_and_the_logits_are_unchanged(x):
    network = Net()
    output = HookedClassifier(network, "fc")(x)
    assert torch.equal(output.features, network.pool(network.conv(x).relu()).flatten(1))
    assert torch.equal(output.logits, network(x))
    assert torch.equal(output.logits, network.fc(output.features))


def test_hooked_output_is_the_output_of_the_layer(x):
    network = Net()
    assert torch.equal(HookedClassifier(network, "fc", take="output")(x).features, network(x))


def test_hooked_layer_called_by_keyword_is_seen():
    class Keyword(Returns):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(input=x)

    x = torch.ones(4, 3)
    assert torch.equal(HookedClassifier(Keyword(None), "fc")(x).features, x)


def test_a_later_in_place_layer_does_not_change_the_features():
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(inplace=True), nn.Linear(1, 1))
    nn.init.constant_(network[0].weight, -1.0)
    x = torch.tensor([[2.0]])
    assert HookedClassifier(network, "0", take="output")(x).features.item() == -2.0
    assert HookedClassifier(network, "1", take="input")(x).features.item() == -2.0
    assert HookedClassifier(network, "2", take="input")(x).features.item() == 0.0


def test_gradients_flow_through_the_features_into_the_layers_before(x):
    model = HookedClassifier(Net(), "fc")
    model(x).features.square().sum().backward()
    assert model.network.conv.weight.grad.abs().sum() > 0
    assert model.network.fc.weight.grad is None


def test_the_network_is_left_without_hooks_even_after_an_error(x):
    model = HookedClassifier(Net(), "fc")
    model(x)
    with pytest.raises(RuntimeError):
        model(x[:, :1])
    assert not model.network.fc._forward_pre_hooks
    assert not model.network.fc._forward_hooks


def test_no_tensor_is_kept_alive_between_forwards(x):
    model = HookedClassifier(Net(), "fc")
    alive = weakref.ref(model(x).features)
    gc.collect()
    assert alive() is None


def test_parameter_names_are_the_networks_own_behind_a_prefix():
    names = [name for name, _ in HookedClassifier(Net(), "fc").named_parameters()]
    assert names == [f"network.{name}" for name, _ in Net().named_parameters()]


def test_copies_and_pickles_give_the_same_output(x):
    model = HookedClassifier(Net(), "fc")
    before = model(x)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert torch.equal(twin(x).features, before.features)
        assert torch.equal(twin(x).logits, before.logits)


@pytest.mark.parametrize("wrap", [lambda logits: logits, lambda logits: SimpleNamespace(logits=logits)])
def test_logits_may_be_a_tensor_or_an_attribute(wrap):
    output = HookedClassifier(Returns(wrap), "fc")(torch.ones(4, 3))
    assert output.logits.shape == (4, 2)


def test_another_return_value_is_an_error_that_names_the_rule():
    with pytest.raises(ValueError, match="attribute `logits`, got tuple"):
        HookedClassifier(Returns(lambda logits: (logits, logits)), "fc")(torch.ones(4, 3))


def test_an_unknown_layer_is_an_error_with_the_nearest_names():
    with pytest.raises(ValueError, match="no layer 'fcc'; the nearest names are fc"):
        HookedClassifier(Net(), "fcc")


def test_an_unknown_side_is_an_error():
    with pytest.raises(ValueError, match="take must be"):
        HookedClassifier(Net(), "fc", take="both")


def test_feature_maps_are_an_error_that_says_where_to_go(x):
    with pytest.raises(
        ValueError, match=r"input of layer 'act' must have shape \(n, d\), got \(5, 6, 6, 6\).*unused, fc"
    ):
        HookedClassifier(Net(), "act")(x)


def test_a_layer_that_is_never_called_is_an_error(x):
    with pytest.raises(ValueError, match="'unused' must be called once in a forward, was called 0 times"):
        HookedClassifier(Net(), "unused")(x)


def test_a_layer_that_is_called_twice_is_an_error():
    layer = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="'1' must be called once in a forward, was called 2 times"):
        HookedClassifier(nn.Sequential(layer, layer), "1")(torch.ones(4, 3))


def test_an_output_that_is_no_tensor_is_an_error():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(3, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x)[0][:, -1]

    with pytest.raises(ValueError, match="output of layer 'rnn' must be a tensor, got tuple.*no linear layer"):
        HookedClassifier(Recurrent(), "rnn", take="output")(torch.ones(4, 5, 3))
