"""MOON's projection head: the features are its outputs, and the encoder stays what it was."""

from __future__ import annotations

import pickle
from itertools import pairwise

import pytest
import torch
from torch import nn

from decollapse.models import (
    MLP,
    Classifier,
    HookedClassifier,
    ImportedModel,
    MobileNetV2,
    Projected,
    ResNet8,
    SimplexClassifier,
    SmallCNN,
)

SHAPE = (3, 8, 8)
BODIES = [MLP(hidden=(12,)), MLP(hidden=()), SmallCNN(), SmallCNN(features=0), ResNet8(), MobileNetV2()]


def draw(builder, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return builder(SHAPE, 10)


def parameters(*widths: int) -> int:
    return sum(inputs * outputs + outputs for inputs, outputs in pairwise(widths))


@pytest.mark.parametrize("body", BODIES, ids=repr)
def test_the_encoder_is_the_bodys_by_name_and_value_and_the_rest_is_new(body):
    plain, model = draw(body).state_dict(), draw(Projected(body)).state_dict()
    ours = {name: leaf for name, leaf in model.items() if name.startswith("encoder.")}
    theirs = {name: leaf for name, leaf in plain.items() if name.startswith("encoder.")}
    assert list(ours) == list(theirs)
    assert all(torch.equal(leaf, theirs[name]) for name, leaf in ours.items())
    assert set(model) - set(ours) == {
        "projector.linear1.weight",
        "projector.linear1.bias",
        "projector.linear2.weight",
        "projector.linear2.bias",
        "head.weight",
        "head.bias",
    }


@pytest.mark.parametrize(("body", "width"), list(zip(BODIES, [12, 192, 128, 96, 64, 1280], strict=True)), ids=repr)
def test_parameters_are_those_of_a_perceptron_on_the_encoder(body, width):
    model = draw(Projected(body, widths=(32, 16)))
    assert sum(param.numel() for param in model.projector.parameters()) == parameters(width, 32, 16)
    assert sum(param.numel() for param in model.head.parameters()) == parameters(16, 10)


@pytest.mark.parametrize("widths", [(7,), (256, 256), (6, 5, 4)])
def test_features_are_the_perceptrons_outputs_and_the_head_reads_them(widths):
    model, x = draw(Projected(SmallCNN(), widths)).double(), torch.randn(4, *SHAPE, dtype=torch.float64)
    z = model.encoder(x)
    for number in range(1, len(widths) + 1):
        layer = model.projector.get_submodule(f"linear{number}")
        z = (z.clamp(min=0) if number > 1 else z) @ layer.weight.T + layer.bias
    output = model(x)
    torch.testing.assert_close(output.features, z)
    torch.testing.assert_close(output.logits, z @ model.head.weight.T + model.head.bias)
    assert output.features.min() < 0


def test_the_names_of_the_layers_are_as_documented():
    names = [name for name, _ in draw(Projected(SmallCNN(), (6, 5, 4))).projector.named_children()]
    assert names == ["linear1", "relu1", "linear2", "relu2", "linear3"]


def test_a_batch_of_one_keeps_its_batch():
    output = draw(Projected(ResNet8(norm="group")))(torch.randn(1, *SHAPE))
    assert output.features.shape == (1, 256)
    assert output.logits.shape == (1, 10)


def test_buffers_and_mode_are_those_of_a_fresh_model():
    model = draw(Projected(ResNet8()))
    assert model.training
    assert model.encoder.norm.training
    assert model.encoder.norm.num_batches_tracked == 0
    assert torch.equal(model.encoder.norm.running_mean, torch.zeros(16))


def test_a_projection_of_a_projection_goes_through_both():
    model, x = draw(Projected(Projected(MLP(), (6,)), (5,))), torch.randn(4, *SHAPE)
    inner, outer = model.projector
    torch.testing.assert_close(model(x).features, outer(inner(model.encoder(x))))


def test_a_body_with_a_fixed_classifier_gets_a_linear_head():
    model = draw(Projected(SimplexClassifier(MLP()), (5,)))
    assert type(model.head) is nn.Linear
    assert model(torch.randn(4, *SHAPE)).logits.shape == (4, 10)


def test_an_imported_classifier_is_a_body_too():
    parts = {"encoder": nn.Flatten(), "head": nn.Linear(192, 10)}
    body = ImportedModel("decollapse.models:Classifier", options=parts)
    assert draw(Projected(body, (5,)))(torch.randn(4, *SHAPE)).features.shape == (4, 5)


def test_weights_are_a_function_of_torchs_seed():
    first, again, other = (draw(Projected(SmallCNN()), seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(leaf, again[name]) for name, leaf in first.items())
    assert not torch.equal(first["projector.linear1.weight"], other["projector.linear1.weight"])


def test_a_builder_is_a_value():
    builder = Projected(ResNet8(norm="group"), widths=(32, 16))
    assert pickle.loads(pickle.dumps(builder)) == builder
    assert hash(builder) == hash(pickle.loads(pickle.dumps(builder)))


def test_a_model_of_another_kind_is_an_error_that_says_which():
    def body(input_shape, num_classes):
        return HookedClassifier(nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes)), "1")

    with pytest.raises(ValueError, match="only a decollapse Classifier .*, got HookedClassifier from .*body"):
        Projected(body)(SHAPE, 10)


@pytest.mark.parametrize("widths", [(), (0,), (8, -1)])
def test_impossible_widths_are_an_error(widths):
    with pytest.raises(ValueError, match="at least one layer and widths of at least 1, got"):
        Projected(MLP(), widths)


def test_a_projected_classifier_compiles_without_a_graph_break():
    model, x = Classifier(nn.Flatten(), nn.Linear(3, 2), nn.Linear(192, 3)), torch.randn(4, *SHAPE)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x).features, model(x).features)
