"""Models by import path: what works unchanged, and which mistakes are explained."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from decollapse.models import ImportedModel, import_object

NETS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes=1000, width=6):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).mean((2, 3)))


def any_keyword(**kwargs):
    return Net(**kwargs)


def by_shape(input_shape, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(input_shape).numel(), num_classes))


def not_a_model():
    return "a string"


CONSTANT = 3
"""
SHAPE = (3, 8, 8)


@pytest.fixture(autouse=True)
def nets(tmp_path, monkeypatch):
    (tmp_path / "imported_nets.py").write_text(NETS)
    (tmp_path / "needs_more.py").write_text("import a_package_nobody_has")
    monkeypatch.syspath_prepend(tmp_path)


def test_features_come_from_the_named_layer_and_num_classes_is_filled_in():
    model = ImportedModel("imported_nets:Net", layer="fc", options={"width": 5})(SHAPE, 7)
    output = model(torch.randn(2, *SHAPE))
    assert output.features.shape == (2, 5)
    assert output.logits.shape == (2, 7)


def test_input_shape_is_filled_in():
    model = ImportedModel("imported_nets:by_shape", layer="1")(SHAPE, 7)
    assert model(torch.randn(2, *SHAPE)).features.shape == (2, 192)


def test_a_model_that_returns_an_output_needs_no_layer():
    options = {"encoder": nn.Flatten(), "head": nn.Linear(192, 7)}
    model = ImportedModel("decollapse.models:Classifier", options=options)(SHAPE, 7)
    assert model(torch.randn(2, *SHAPE)).features.shape == (2, 192)


def test_the_trial_batch_leaves_mode_and_buffers_alone():
    model = ImportedModel("imported_nets:Net", layer="fc")(SHAPE, 7)
    assert model.training
    assert model.network.norm.num_batches_tracked == 0
    assert torch.equal(model.network.norm.running_mean, torch.zeros(6))


def test_a_builder_is_a_value():
    builder = ImportedModel("imported_nets:Net", layer="fc", options={"width": 5})
    assert pickle.loads(pickle.dumps(builder)) == builder
    assert hash(builder) == hash(pickle.loads(pickle.dumps(builder)))


@pytest.mark.parametrize("path", ["imported_nets", "imported_nets:", ":Net", ""])
def test_a_path_without_module_or_name_is_an_error_at_once(path):
    with pytest.raises(ValueError, match=r'looks like "package.module:name", got'):
        ImportedModel(path)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("imported_netz:Net", r"no module 'imported_netz'; is its folder in PYTHONPATH.*nearest: imported_nets"),
        ("torch.nnn:Linear", r"no module 'nnn' in 'torch' \(nearest: nn"),
        ("zzzqqq.deeper:Net", r"no module 'zzzqqq'; is its folder"),
        ("imported_nets:Nett", r"'imported_nets' has no 'Nett' \(nearest: Net"),
    ],
)
def test_a_wrong_path_is_an_error_with_the_nearest_names(path, message):
    with pytest.raises(ValueError, match=message):
        import_object(path)


def test_a_module_inside_a_module_that_is_no_package_is_an_error():
    with pytest.raises(ValueError, match="no module 'deeper' in 'imported_nets'"):
        import_object("imported_nets.deeper:Net")


def test_an_import_error_inside_the_module_is_passed_on():
    with pytest.raises(ModuleNotFoundError, match="a_package_nobody_has"):
        import_object("needs_more:Net")


def test_attributes_of_attributes_are_found():
    assert import_object("torch:nn.Linear") is nn.Linear


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"factory": "imported_nets:CONSTANT"}, "must be a function or a class, got int"),
        ({"factory": "imported_nets:not_a_model"}, "must return an nn.Module, got str"),
        ({"factory": "imported_nets:Net", "options": {"widht": 3}}, r"does not fit the options.*widht"),
        ({"factory": "imported_nets:Net"}, "must return a decollapse Output, got Tensor; name the layer"),
        ({"factory": "imported_nets:Net", "layer": "fcc"}, "no layer 'fcc'; the nearest names are fc"),
        ({"factory": "imported_nets:Net", "layer": "norm"}, r"must have shape \(n, d\)"),
        ({"factory": "imported_nets:any_keyword", "layer": "fc"}, r"must give 7 logits.*\(2, 1000\).*num_classes = 7"),
    ],
    ids=repr,
)
def test_a_mistake_shows_before_training(fields, message):
    with pytest.raises(ValueError, match=message):
        ImportedModel(**fields)(SHAPE, 7)


def test_an_unknown_side_is_an_error():
    with pytest.raises(ValueError, match="take must be"):
        ImportedModel("imported_nets:Net", take="both")
