"""FedETF's classifier: a simplex, the same everywhere, that learns one number."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from decollapse.core import ModelState
from decollapse.models import (
    MLP,
    HookedClassifier,
    MobileNetV2,
    Projected,
    ResNet8,
    SimplexClassifier,
    SimplexHead,
    SmallCNN,
    parameter_names,
    simplex_frame,
)

SHAPE = (3, 8, 8)


def draw(builder, seed=0, num_classes=10):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return builder(SHAPE, num_classes)


def test_two_classes_are_opposite_and_three_are_at_120_degrees():
    first, second = simplex_frame(2, 7)
    torch.testing.assert_close(first, -second)
    cosines = simplex_frame(3, 4) @ simplex_frame(3, 4).T
    degrees = torch.rad2deg(torch.arccos(cosines[0, 1:]))
    torch.testing.assert_close(degrees, torch.full((2,), 120.0, dtype=torch.float64))


@given(st.integers(2, 40), st.integers(0, 60))
def test_a_frame_has_unit_vectors_at_equal_angles_that_sum_to_zero(num_classes, more):
    frame = simplex_frame(num_classes, num_classes + more)
    expected = torch.full((num_classes, num_classes), -1 / (num_classes - 1), dtype=torch.float64)
    torch.testing.assert_close(frame @ frame.T, expected.fill_diagonal_(1.0), atol=1e-12, rtol=0)
    torch.testing.assert_close(frame.sum(0), torch.zeros_like(frame[0]), atol=1e-12, rtol=0)


def test_a_frame_is_the_papers_formula():
    frame = simplex_frame(4, 6)
    # U itself is not kept, but U (I - 1 1^T / C) is.
    centred = torch.eye(4, dtype=torch.float64) - torch.full((4, 4), 0.25, dtype=torch.float64)
    u = frame.T / math.sqrt(4 / 3)
    torch.testing.assert_close(u.T @ u, centred)
    torch.testing.assert_close(u @ centred, u)


def test_a_frame_depends_on_its_two_numbers_and_on_no_generator():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = simplex_frame(10, 64)
        state = torch.get_rng_state()
        torch.manual_seed(2)
        second = simplex_frame(10, 64)
        torch.manual_seed(1)
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, second)
    assert not torch.equal(first[:, :32], simplex_frame(10, 32))


def test_a_frame_is_the_same_in_every_version():
    """Clients and checkpoints of other versions rely on it: a change here must be deliberate."""
    expected = torch.tensor([-0.09872628635833, -0.81724779474329, 0.56776682041937], dtype=torch.float64)
    torch.testing.assert_close(simplex_frame(3, 3)[0], expected)


def test_logits_by_hand():
    head = SimplexHead(4, 3, scale=2.0).double()
    features = 5.0 * simplex_frame(3, 4)[:1]
    torch.testing.assert_close(
        head(features), torch.tensor([[2.0, -1.0, -1.0]], dtype=torch.float64), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_are_scaled_cosines(dtype):
    head, features = SimplexHead(8, 5, scale=3.0).to(dtype), torch.randn(6, 8, dtype=dtype)
    frame = head.frame.double()
    expected = [
        [3.0 * float(z @ m) / (math.sqrt(float(z @ z)) * math.sqrt(float(m @ m))) for m in frame]
        for z in features.double()
    ]
    torch.testing.assert_close(head(features), torch.tensor(expected, dtype=dtype), atol=1e-6, rtol=1e-5)


def test_the_length_of_the_features_does_not_matter():
    head, features = SimplexHead(8, 5), torch.randn(6, 8)
    torch.testing.assert_close(head(1000 * features), head(features))


def test_gradients_are_those_of_the_formula():
    head = SimplexHead(4, 3, scale=2.0).double()
    features = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    scale = head.scale.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z, s: functional_call(head, {"scale": s}, (z,)), (features, scale))


def test_features_of_length_zero_get_equal_logits_and_a_finite_gradient():
    head, features = SimplexHead(4, 3), torch.zeros(2, 4, requires_grad=True)
    logits = head(features)
    nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
    assert torch.equal(logits, torch.zeros(2, 3))
    assert features.grad.isfinite().all()
    assert head.scale.grad.isfinite()


def test_the_frame_is_neither_parameter_nor_state():
    head = SimplexHead(8, 5, scale=4.0)
    assert [(name, param.item()) for name, param in head.named_parameters()] == [("scale", 4.0)]
    assert list(head.state_dict()) == ["scale"]
    state = ModelState.of(draw(SimplexClassifier(SmallCNN())))
    assert not [name for name in state.params | state.buffers if "frame" in name]


def test_every_model_of_one_shape_has_the_same_frame_before_and_after_loading():
    first, second = (draw(SimplexClassifier(SmallCNN()), seed) for seed in (0, 1))
    assert torch.equal(first.head.frame, second.head.frame)
    ModelState.of(first).load_into(second)
    x = torch.randn(4, *SHAPE)
    assert torch.equal(first(x).logits, second(x).logits)


def test_the_frame_follows_the_model_and_its_copies():
    head = SimplexHead(8, 5).double()
    assert head.frame.dtype == torch.float64
    for twin in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert torch.equal(twin.frame, head.frame)


def test_training_changes_the_scale_and_not_the_frame():
    model = draw(SimplexClassifier(SmallCNN(), features=16, scale=5.0))
    frame = model.head.frame.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, *SHAPE, generator=generator), torch.arange(20) % 10
    losses = []
    for _ in range(15):
        loss = nn.functional.cross_entropy(model(x).logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert torch.equal(model.head.frame, frame)
    assert model.head.scale.item() != 5.0


@pytest.mark.parametrize("body", [MLP(), SmallCNN(), ResNet8(), MobileNetV2()], ids=repr)
def test_without_projector_the_features_are_the_bodys(body):
    model, plain, x = draw(SimplexClassifier(body)).eval(), draw(body).eval(), torch.randn(4, *SHAPE)
    assert torch.equal(model(x).features, plain(x).features)
    assert torch.equal(model(x).logits, model.head(model(x).features))


def test_features_are_the_projectors_output_before_normalisation():
    model, x = draw(SimplexClassifier(SmallCNN(), features=12)), torch.randn(4, *SHAPE)
    z = model.encoder(x) @ model.projector.weight.T + model.projector.bias
    output = model(x)
    torch.testing.assert_close(output.features, z)
    expected = nn.functional.normalize(z, dim=1) @ simplex_frame(10, 12).float().T
    torch.testing.assert_close(output.logits, expected, atol=1e-6, rtol=1e-5)


def test_a_projector_makes_room_for_more_classes_than_the_body_has_features():
    model = draw(SimplexClassifier(MLP(hidden=(4,)), features=10))
    assert model(torch.randn(2, *SHAPE)).logits.shape == (2, 10)


def test_a_body_with_a_projection_keeps_it():
    model, x = draw(SimplexClassifier(Projected(MLP(), (12,)))), torch.randn(4, *SHAPE)
    torch.testing.assert_close(model(x).features, model.projector(model.encoder(x)))


def test_the_head_is_a_part_of_one_parameter():
    model = draw(SimplexClassifier(SmallCNN(), features=10))
    assert parameter_names(model, ("head",)) == {"head.scale"}
    assert parameter_names(model, ("projector",)) == {"projector.weight", "projector.bias"}


def test_fewer_features_than_classes_are_an_error_with_both_numbers_and_a_way_out():
    with pytest.raises(ValueError, match="of 10 classes needs at least 10 features, got 4; set features to 10 or more"):
        draw(SimplexClassifier(MLP(hidden=(4,))))
    with pytest.raises(ValueError, match="of 10 classes needs at least 10 features, got 9"):
        draw(SimplexClassifier(MLP(), features=9))


def test_one_class_is_an_error():
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        simplex_frame(1, 4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"features": -1}, "width of the projector, or 0 for none, got -1"),
        ({"scale": 0.0}, "scale must be positive and finite, got 0.0"),
        ({"scale": math.inf}, "scale must be positive and finite, got inf"),
        ({"scale": math.nan}, "scale must be positive and finite, got nan"),
    ],
    ids=repr,
)
def test_an_impossible_setting_is_an_error_at_once(fields, message):
    with pytest.raises(ValueError, match=message):
        SimplexClassifier(MLP(), **fields)


def test_a_model_of_another_kind_is_an_error_that_says_which():
    def body(input_shape, num_classes):
        return HookedClassifier(nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes)), "1")

    with pytest.raises(ValueError, match="only a decollapse Classifier .*, got HookedClassifier"):
        SimplexClassifier(body)(SHAPE, 10)


def test_a_builder_is_a_value():
    builder = SimplexClassifier(ResNet8(norm="group"), features=10, scale=10.0)
    assert pickle.loads(pickle.dumps(builder)) == builder
    assert hash(builder) == hash(pickle.loads(pickle.dumps(builder)))
