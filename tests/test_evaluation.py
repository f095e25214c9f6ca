from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from decollapse.core import Output
from decollapse.data import Groups
from decollapse.evaluation import evaluate, mean_evaluation, outputs
from decollapse.spectrum import FeatureStatistics

EYE = torch.eye(2)


class Scores(nn.Module):
    """The input is the logits and the features, so that every number can be worked out by hand."""

    def forward(self, x: Tensor) -> Output:
        return Output(logits=x, features=x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Output:
        z = self.encoder(x)
        return Output(logits=self.head(z), features=z)


def identity(x: Tensor) -> Tensor:
    return x


def to_unit(x: Tensor) -> Tensor:
    return x / 255


def images(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, 3, 2, 2), dtype=torch.uint8, generator=generator)
    return x, torch.randint(0, 3, (n,), generator=generator)


def test_accuracy_and_loss_by_hand():
    x, y = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0], [0.0, 0.0]]), torch.tensor([0, 1, 0])
    result = evaluate(Scores(), x, y, num_classes=3 - 1, preprocess=identity)
    assert result.num_examples == 3
    assert result.accuracy == pytest.approx(2 / 3)
    assert result.loss == pytest.approx((math.log(4 / 3) + math.log(4) + math.log(2)) / 3)
    assert result.per_class_accuracy == (1.0, 0.0)
    assert result.class_counts == (2, 1)
    assert result.finite


def test_accuracy_of_groups_by_hand():
    x, y = torch.eye(3), torch.tensor([0, 1, 1])
    result = evaluate(Scores(), x, y, num_classes=3, preprocess=identity)
    groups = Groups(("photo", "sketch", "cartoon"), torch.tensor([0, 1, 1]))
    assert result.of_groups(groups) == {"photo": 1.0, "sketch": 0.5, "cartoon": None}


def test_models_of_their_own_are_right_on_average():
    results = [evaluate(Scores(), x, torch.tensor([0, 1]), num_classes=2, preprocess=identity) for x in (EYE, -EYE)]
    groups = Groups(("a", "b"), torch.tensor([0, 1]))
    assert mean_evaluation(results).of_groups(groups) == {"a": 0.5, "b": 0.5}


def test_a_class_without_examples_has_no_accuracy():
    result = evaluate(Scores(), torch.eye(3)[:2], torch.tensor([0, 1]), num_classes=3, preprocess=identity)
    assert result.per_class_accuracy == (1.0, 1.0, None)
    assert result.class_counts == (1, 1, 0)


@pytest.mark.parametrize("batch_size", [1, 7, 20, 500])
def test_means_are_over_examples_whatever_the_batches(batch_size: int):
    model = Net().double()
    x, y = images(20)
    whole = evaluate(model, x, y, num_classes=3, preprocess=to_unit, batch_size=20)
    result = evaluate(model, x, y, num_classes=3, preprocess=to_unit, batch_size=batch_size)
    assert result.accuracy == whole.accuracy
    assert result.loss == pytest.approx(whole.loss, rel=1e-12)
    torch.testing.assert_close(result.statistics.covariance(), whole.statistics.covariance(), rtol=1e-10, atol=1e-14)


def test_the_statistics_are_those_of_the_features_of_the_same_pass():
    model = Net().eval()
    x, y = images(30)
    z = model(x / 255).features.detach()
    result = evaluate(model, x, y, num_classes=3, preprocess=to_unit)
    torch.testing.assert_close(
        result.statistics.covariance(), FeatureStatistics.of(z).covariance(), rtol=1e-6, atol=1e-8
    )
    result = evaluate(model, x, y, num_classes=3, preprocess=to_unit, per_class=True)
    expected = FeatureStatistics.of(z, y, num_classes=3)
    assert result.statistics.counts.tolist() == expected.counts.tolist()
    torch.testing.assert_close(result.statistics.means, expected.means, rtol=1e-6, atol=1e-8)


def test_every_module_returns_to_its_own_mode_and_no_buffer_changes():
    model = Net().train()
    model.encoder[2].eval()
    before = {name: leaf.clone() for name, leaf in model.state_dict().items()}
    x, y = images(10)
    evaluate(model, x, y, num_classes=3, preprocess=to_unit)
    assert model.training
    assert model.encoder[4].training
    assert not model.encoder[2].training
    assert all(torch.equal(leaf, before[name]) for name, leaf in model.state_dict().items())


def test_the_modes_return_after_an_error_too():
    model = Net().train()
    with pytest.raises(ValueError, match="expected logits"):
        evaluate(model, *images(4), num_classes=5, preprocess=to_unit)
    assert model.training
    assert torch.is_grad_enabled()


def test_dropout_is_off_and_the_generator_untouched():
    model = Net()
    x, y = images(10)
    state = torch.get_rng_state()
    losses = {evaluate(model, x, y, num_classes=3, preprocess=to_unit).loss for _ in range(3)}
    assert len(losses) == 1
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_input_takes_the_type_of_the_model(dtype: torch.dtype):
    model = Net().to(dtype)
    x, y = images(10)
    assert evaluate(model, x, y, num_classes=3, preprocess=to_unit).finite
    assert outputs(model, x, preprocess=to_unit).features.dtype == dtype


def test_a_diverged_model_is_reported_and_does_not_raise():
    model = Net()
    nn.init.constant_(model.head.weight, math.nan)
    result = evaluate(model, *images(10), num_classes=3, preprocess=to_unit)
    assert math.isnan(result.loss)
    assert result.accuracy == 0.0
    assert not result.finite
    assert result.statistics is not None
    nn.init.constant_(model.encoder[1].weight, math.inf)
    assert evaluate(model, *images(10), num_classes=3, preprocess=to_unit).statistics is None


def test_one_bad_example_costs_the_loss_and_the_statistics_but_not_the_other_answers():
    x, y = torch.eye(4), torch.tensor([0, 1, 2, 3])
    x[2, 2] = math.nan  # argmax would call this the right class
    result = evaluate(Scores(), x, y, num_classes=4, preprocess=identity, batch_size=1)
    assert result.accuracy == 0.75
    assert math.isnan(result.loss)
    assert result.statistics is None


def test_features_come_in_the_order_of_the_examples():
    x = torch.arange(14.0).reshape(7, 2)
    assert torch.equal(outputs(Scores(), x, preprocess=identity, batch_size=3).features, x)
    assert not outputs(Net(), images(4)[0], preprocess=to_unit).features.requires_grad


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), "n >= 1 examples"),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), "n labels, got 3"),
        (torch.zeros(2, 2), torch.tensor([0, 2]), "labels must be 0 to 1, got 0 to 2"),
    ],
)
def test_examples_that_do_not_fit_are_a_clear_error(x: Tensor, y: Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        evaluate(Scores(), x, y, num_classes=2, preprocess=identity)


def test_other_bad_input_is_a_clear_error():
    x, y = torch.zeros(2, 2), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        evaluate(Scores(), x, y, num_classes=2, preprocess=identity, batch_size=0)
    with pytest.raises(TypeError, match=r"must return decollapse\.core\.Output\(logits, features\), got Tensor"):
        evaluate(nn.Identity(), x, y, num_classes=2, preprocess=identity)
    with pytest.raises(ValueError, match="at least one example"):
        outputs(Scores(), x[:0], preprocess=identity)
