"""Parts of a model by name: exactly the parameters that are meant, or an error."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from decollapse.models import MLP, Classifier, HookedClassifier, ResNet8, ResNet20, parameter_names


def names(model: nn.Module) -> set[str]:
    return {name for name, _ in model.named_parameters()}


def test_the_head_is_its_weight_and_bias():
    assert parameter_names(MLP()((4,), 2), ("head",)) == {"head.weight", "head.bias"}


def test_no_part_is_no_parameter_and_all_is_every_one():
    model = ResNet8()((3, 8, 8), 10)
    assert parameter_names(model, ()) == set()
    assert parameter_names(model, ("all",)) == names(model)


def test_encoder_and_head_are_disjoint_and_together_all():
    model = ResNet8()((3, 8, 8), 10)
    encoder, head = parameter_names(model, ("encoder",)), parameter_names(model, ("head",))
    assert not encoder & head
    assert encoder | head == parameter_names(model, ("encoder", "head")) == names(model)


def test_a_nested_module_is_a_part_and_a_parameter_is_one_too():
    model = ResNet8()((3, 8, 8), 10)
    stage = parameter_names(model, ("encoder.stage3",))
    assert stage == {name for name in names(model) if name.startswith("encoder.stage3.")}
    assert stage
    assert parameter_names(model, ("head.bias",)) == {"head.bias"}


def test_a_name_that_only_begins_alike_is_another_part():
    model = nn.ModuleDict({"head": nn.Linear(1, 1), "head2": nn.Linear(1, 1)})
    assert parameter_names(model, ("head",)) == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(4),
        nn.BatchNorm2d(4),
        nn.BatchNorm3d(4),
        nn.SyncBatchNorm(4),
        nn.InstanceNorm1d(4, affine=True),
        nn.InstanceNorm2d(4, affine=True),
        nn.InstanceNorm3d(4, affine=True),
        nn.GroupNorm(2, 4),
        nn.LayerNorm(4),
        nn.RMSNorm(4),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_norm_is_every_normalisation_layer_whatever_its_name(layer):
    model = nn.Sequential(nn.Linear(4, 4), layer)
    assert parameter_names(model, ("norm",)) == {f"1.{name}" for name, _ in layer.named_parameters()} != set()


@pytest.mark.parametrize("norm", ["batch", "group", "layer"])
def test_norm_finds_the_shortcuts_layers_and_no_convolution(norm):
    model = ResNet20(norm=norm)((3, 8, 8), 10)
    found = parameter_names(model, ("norm",))
    assert found == {name for name in names(model) if ".norm" in name}
    assert len(found) == 2 * 19


def test_norm_is_empty_where_there_is_none():
    assert parameter_names(MLP(norm="none")((4,), 2), ("norm",)) == set()


def test_the_word_norm_wins_over_a_module_of_that_name():
    model = nn.ModuleDict({"norm": nn.Linear(2, 2), "layer": nn.LayerNorm(2)})
    assert parameter_names(model, ("norm",)) == {"layer.weight", "layer.bias"}
    assert parameter_names(model, ("norm.weight",)) == {"norm.weight"}


def test_a_tied_weight_belongs_to_the_parts_of_all_its_names():
    encoder, head = nn.Linear(3, 3), nn.Linear(3, 3)
    head.weight = encoder.weight
    model = Classifier(encoder, head)
    assert parameter_names(model, ("head",)) == {"encoder.weight", "head.bias"}
    assert parameter_names(model, ("head",)) <= names(model)


def test_frozen_parameters_count():
    model = MLP()((4,), 2).requires_grad_(False)
    assert parameter_names(model, ("head",)) == {"head.weight", "head.bias"}


def test_a_network_of_somebody_else_has_its_names_behind_a_prefix():
    model = HookedClassifier(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)), layer="2")
    assert parameter_names(model, ("network.2",)) == {"network.2.weight", "network.2.bias"}
    assert parameter_names(model, ("norm",)) == {"network.1.weight", "network.1.bias"}


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("haed", "no part 'haed'; the nearest names are head"),
        ("encoder.stag3", "no part 'encoder.stag3'; the nearest names are encoder.stage3"),
        ("al", "nearest names are all"),
        ("", "no part ''"),
        ("head.", "no part 'head.'; the nearest names are head"),
    ],
)
def test_an_unknown_part_is_an_error_with_the_nearest_names(part, message):
    with pytest.raises(ValueError, match=message):
        parameter_names(ResNet8()((3, 8, 8), 10), (part,))


def test_a_part_without_parameters_is_an_error():
    with pytest.raises(ValueError, match="part 'encoder.relu' of the model has no parameters"):
        parameter_names(ResNet8()((3, 8, 8), 10), ("head", "encoder.relu"))


def test_nothing_is_changed():
    model = ResNet8()((3, 8, 8), 10)
    before = {name: leaf.clone() for name, leaf in model.state_dict().items()}
    parameter_names(model, ("norm", "head"))
    assert all(torch.equal(leaf, before[name]) for name, leaf in model.state_dict().items())
    assert all(param.requires_grad for param in model.parameters())
