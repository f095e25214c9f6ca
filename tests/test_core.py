from __future__ import annotations

import pickle

import pytest
import torch
from torch import Tensor, nn

from decollapse import tree
from decollapse.core import Broadcast, ClientData, ClientResult, ModelState, Output


class TiedAutoencoder(nn.Module):
    """Two names for one weight, as in many language models, and a buffer that is not saved."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.decoder = nn.Linear(3, 3, bias=False)
        self.decoder.weight = self.encoder.weight
        self.register_buffer("scale", torch.ones(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.norm(self.encoder(x))) * self.scale


def test_a_tied_parameter_is_one_parameter_and_no_buffer() -> None:
    state = ModelState.of(TiedAutoencoder())
    assert list(state.params) == ["encoder.weight", "encoder.bias", "norm.weight", "norm.bias"]
    assert list(state.buffers) == ["norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]


def test_a_step_of_the_server_reaches_a_tied_parameter() -> None:
    model = TiedAutoencoder()
    before = ModelState.of(model)
    step = tree.scale(before.params, 0.5)
    ModelState(tree.add(before.params, step), before.buffers).load_into(model)
    for name, leaf in model.named_parameters(remove_duplicate=False):
        assert torch.equal(leaf, 1.5 * before.params[name.replace("decoder", "encoder")]), name


def test_loading_gives_another_model_everything_it_saves() -> None:
    source, target = TiedAutoencoder(), TiedAutoencoder()
    source(torch.randn(8, 3))
    ModelState.of(source).load_into(target)
    for name, leaf in source.state_dict().items():
        assert torch.equal(leaf, target.state_dict()[name]), name


def test_loading_leaves_a_buffer_that_is_not_saved_alone() -> None:
    source, target = TiedAutoencoder(), TiedAutoencoder()
    source.scale.fill_(7.0)
    ModelState.of(source).load_into(target)
    assert target.scale.tolist() == [1.0, 1.0, 1.0]


def test_loading_keeps_dtype_and_identity_of_the_parameters() -> None:
    model = TiedAutoencoder().double()
    weight = model.encoder.weight
    ModelState.of(TiedAutoencoder()).load_into(model)
    assert model.encoder.weight is weight
    assert model.decoder.weight is weight
    assert weight.dtype == torch.float64


def test_a_model_state_shares_no_memory_with_the_model() -> None:
    model = TiedAutoencoder()
    state = ModelState.of(model)
    model.norm.running_mean.fill_(9.0)
    nn.init.constant_(model.encoder.bias, 9.0)
    assert state.buffers["norm.running_mean"].tolist() == [0.0, 0.0, 0.0]
    assert 9.0 not in state.params["encoder.bias"].tolist()
    assert not any(leaf.requires_grad for leaf in state.params.values())


MODEL = ModelState({"w": torch.zeros(2)})


@pytest.mark.parametrize(
    "record",
    [
        MODEL,
        Output(torch.zeros(2, 2), torch.zeros(2, 3)),
        ClientData(0, torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), 2, torch.neg),
        Broadcast(1, MODEL, seed=0),
        ClientResult(0, 2, 1, {"w": torch.zeros(2)}, {}, {}),
    ],
    ids=lambda record: type(record).__name__,
)
def test_a_record_pickles_and_is_equal_to_itself_alone(record: object) -> None:
    copy = pickle.loads(pickle.dumps(record))
    assert type(copy) is type(record)
    assert copy != record
    assert len({record, record, copy}) == 2
