"""A probe in somebody else's loop: the right numbers, and a loop that does not notice it."""

from __future__ import annotations

import copy
import gc
import io
import sys
import weakref
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from decollapse.core import ModelState, Output
from decollapse.diagnosis.collapse_probe import CollapseProbe, classifier_layer
from decollapse.feature_statistics import FeatureStatistics
from decollapse.models import MLP, HookedClassifier, MobileNetV2, ResNet8, SmallCNN, recorded
from decollapse.spectrum import Spectrum


def network(*, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Dropout(dropout), nn.Linear(6, 3))


def batch(n: int = 32, *shape: int, seed: int = 1) -> Tensor:
    return torch.randn(n, *(shape or (4,)), generator=torch.Generator().manual_seed(seed))


def no_hooks(model: nn.Module) -> bool:
    return not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def train(model: nn.Module, *, steps: int = 3) -> list[Tensor]:
    """Anyone's loop; returns the logits of every step and the final weights."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    for step in range(steps):
        logits = model(batch(seed=step))
        optimizer.zero_grad()
        logits.square().mean().backward()
        optimizer.step()
        seen.append(logits.detach())
    return [*seen, *(param.detach() for param in model.parameters())]


class Heads(nn.Module):
    def __init__(self, **heads: nn.Module) -> None:
        super().__init__()
        self.body = nn.Linear(4, 6)
        for name, head in heads.items():
            self.add_module(name, head)


class Twice(nn.Module):
    """Weights shared within a forward."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(self.shared(x))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x, need_weights=False)[0])


class Poison(nn.Module):
    """Puts NaN and infinity into the first and third example."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        x[0, 0], x[2, -1] = torch.nan, -torch.inf
        return x


# ---- the numbers


def test_statistics_by_hand():
    head = nn.Linear(2, 1)
    with CollapseProbe(head, "") as probe:
        head(torch.tensor([[0.0, 0.0], [2.0, 4.0]]))
    assert probe.statistics.mean.tolist() == [1.0, 2.0]
    assert probe.statistics.covariance().tolist() == [[1.0, 2.0], [2.0, 4.0]]
    assert probe.spectrum.covariance.tolist() == [5.0, 0.0]


def test_spectrum_is_that_of_the_pooled_features_in_numpy():
    model, batches = network(), [batch(50, seed=seed) for seed in range(5)]
    with CollapseProbe(model) as probe:
        for x in batches:
            model(x)
    z = np.concatenate([model[:3](x).detach().double().numpy() for x in batches])
    expected = np.linalg.eigvalsh(np.cov(z.T, bias=True))[::-1]
    np.testing.assert_allclose(probe.spectrum.covariance.numpy(), expected, rtol=1e-10, atol=1e-14)
    live = z[:, z.std(0) > 0]
    expected = np.linalg.eigvalsh(np.corrcoef(live.T))[::-1]
    np.testing.assert_allclose(probe.spectrum.correlation.numpy()[: len(expected)], expected, rtol=1e-9, atol=1e-12)
    assert probe.spectrum.num_examples == 250


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=5).filter(any))
def test_batches_do_not_matter(sizes):
    head, x = nn.Linear(4, 2), batch(sum(sizes))
    with CollapseProbe(head, "") as probe:
        for rows in x.split(sizes):
            head(rows)
    whole = FeatureStatistics.of(x)
    assert probe.statistics.num_examples == len(x)
    torch.testing.assert_close(probe.statistics.covariance(), whole.covariance(), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("layer", ["encoder.conv", "encoder.stage2.0", "head"])
def test_the_output_of_a_layer_is_pooled_as_the_losses_pool_it(layer):
    model, x = ResNet8(width=4)((3, 8, 8), 10).eval(), batch(20, 3, 8, 8)
    with CollapseProbe(model, layer, take="output") as probe:
        model(x)
    with recorded(model, (layer,)) as seen:
        model(x)
    expected = FeatureStatistics.of(seen[layer].detach())
    assert torch.equal(probe.statistics.mean, expected.mean)
    assert torch.equal(probe.statistics.covariance(), expected.covariance())


def test_sequences_are_averaged_over_tokens():
    model, x = nn.Linear(4, 2), batch(10, 7, 4)
    with CollapseProbe(model, "") as probe:
        model(x)
    assert torch.equal(probe.statistics.mean, FeatureStatistics.of(x.mean(1)).mean)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_maps_of_any_precision_are_averaged_in_float32_or_better(dtype):
    model, x = nn.Identity(), (1000 + batch(10, 3, 8, 8)).to(dtype)
    with CollapseProbe(model, "", take="output") as probe:
        model(x)
    torch.testing.assert_close(probe.statistics.mean, x.double().mean((0, 2, 3)), rtol=1e-6, atol=0)


def test_the_input_is_seen_before_an_in_place_layer_changes_it_and_the_output_too():
    model, x = network(), batch()
    with CollapseProbe(model, "0", take="output") as probe:
        model(x)
    expected = FeatureStatistics.of(model[0](x).detach())
    assert torch.equal(probe.statistics.mean, expected.mean)
    assert (probe.statistics.mean < 0).any()


def test_an_input_given_by_name_is_taken():
    class Named(nn.Module):
        def forward(self, *, hidden: Tensor) -> Tensor:
            return hidden

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Named()

        def forward(self, *, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.inner(hidden=x)}

    model, x = Model(), batch()
    with CollapseProbe(model, "inner") as probe:
        model(x=x)
    assert torch.equal(probe.statistics.mean, FeatureStatistics.of(x).mean)


def test_the_spectrum_is_solved_once_and_again_when_examples_have_come():
    model = network()
    with CollapseProbe(model) as probe:
        model(batch(64))
        first = probe.spectrum
        assert probe.spectrum is first
        model(batch(32))
        assert probe.spectrum.num_examples == 96
        probe.reset()
        model(batch(96, seed=3))
    assert torch.equal(probe.spectrum.covariance, Spectrum.of(probe.statistics).covariance)


def test_probes_of_several_processes_merge():
    model = network()
    with CollapseProbe(model) as whole:
        with CollapseProbe(model) as one:
            model(batch(seed=1))
        with CollapseProbe(model) as two:
            model(batch(seed=2))
    merged = one.statistics + two.statistics
    torch.testing.assert_close(merged.covariance(), whole.statistics.covariance(), rtol=1e-12, atol=1e-15)


def test_summary_is_the_spectrums_with_what_was_left_out():
    model = nn.Sequential(Poison(), nn.Linear(4, 2))
    with CollapseProbe(model) as probe:
        model(batch())
    assert probe.summary() == probe.spectrum.summary() | {"num_nonfinite": 2, "num_unlabelled": 0}


# ---- the loop does not notice


def test_training_has_the_same_bits_with_the_probe_as_without():
    plain = train(network(dropout=0.5))
    model = network(dropout=0.5)
    with CollapseProbe(model) as probe:
        probed = train(model)
    assert all(torch.equal(a, b) for a, b in zip(plain, probed, strict=True))
    assert probe.statistics.num_examples == 96


def test_the_very_object_the_layer_returned_is_passed_on():
    class Returns(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            self.result = x + 1
            return self.result

    model = Returns()
    with CollapseProbe(model, "", take="output"):
        assert model(batch()) is model.result


@pytest.mark.parametrize("take", ["input", "output"])
def test_the_model_is_left_without_hooks(take):
    model = network()
    with CollapseProbe(model, take=take):
        assert not no_hooks(model)
    assert no_hooks(model)


@pytest.mark.parametrize("take", ["input", "output"])
def test_the_model_is_left_without_hooks_after_an_error_which_is_passed_on(take):
    model = network()
    probe = CollapseProbe(model, take=take)

    def loop() -> None:
        with probe:
            model(batch())
            raise KeyError("theirs")

    with pytest.raises(KeyError, match="theirs"):
        loop()
    assert no_hooks(model)
    assert probe.statistics.num_examples == 32


def test_a_hook_that_outlives_the_block_as_in_a_compiled_graph_counts_nothing():
    model, x = nn.Linear(4, 2), batch()
    with CollapseProbe(model, "") as probe:
        (hook,) = model._forward_pre_hooks.values()
        hook(model, (x,), {})
    hook(model, (x,), {})
    assert probe.statistics.num_examples == 32


def test_hooks_of_others_stay():
    model, called = network(), []
    mine = model[3].register_forward_hook(lambda *_: called.append(1))
    with CollapseProbe(model):
        model(batch())
    model(batch())
    assert len(called) == 2
    mine.remove()


def test_outside_the_block_nothing_is_counted():
    model = network()
    probe = CollapseProbe(model)
    model(batch())
    with probe:
        model(batch())
    model(batch())
    assert probe.statistics.num_examples == 32


def test_no_activation_and_no_graph_is_kept_alive():
    model, alive = network(), []

    class Remember(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 1.0
            alive.append(weakref.ref(y))
            return y

    model.insert(3, Remember())
    with CollapseProbe(model) as probe:
        model(batch()).sum().backward()
        gc.collect()
        assert [ref() for ref in alive] == [None]
    assert not any(tensor.requires_grad for tensor in (probe.statistics.means, probe.statistics.within))


def test_the_model_does_not_keep_the_probe_alive():
    model = network()
    with CollapseProbe(model) as probe:
        model(batch())
    alive = weakref.ref(probe)
    del probe
    gc.collect()
    assert alive() is None


def test_the_probe_keeps_no_more_of_the_model_alive_than_the_layer():
    model = network()
    alive = weakref.ref(model[0])
    probe = CollapseProbe(model)
    del model
    gc.collect()
    assert alive() is None
    assert probe.layer == "3"


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_every_gradient_mode_counts_and_they_may_follow_each_other(mode):
    model, x = network(), batch()
    with CollapseProbe(model) as probe:
        with mode():
            model(x)
        model(x).sum().backward()
        with torch.inference_mode():
            model(x)
    expected = FeatureStatistics.of(model[:3](x).detach())
    assert probe.statistics.num_examples == 96
    torch.testing.assert_close(probe.statistics.covariance(), expected.covariance(), rtol=1e-12, atol=1e-15)


def test_under_autocast_the_features_are_those_of_the_model_and_the_sums_are_float64():
    model, x = network(), batch(256)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        with CollapseProbe(model) as probe:
            logits = model(x)
        z = model[:3](x)
        assert z.dtype == torch.bfloat16
        assert torch.equal(logits, model(x))
    expected = np.cov(z.double().numpy().T, bias=True)
    np.testing.assert_allclose(probe.statistics.covariance().numpy(), expected, rtol=1e-12, atol=1e-15)


def test_a_functional_call_counts_with_its_own_weights():
    model, x = network(), batch()
    other = ModelState.of(nn.Sequential(nn.Linear(4, 6), nn.Identity(), nn.Identity(), nn.Linear(6, 3)))
    with CollapseProbe(model) as probe:
        functional_call(model, other.params, (x,))
    other.load_into(model)
    assert torch.equal(probe.statistics.mean, FeatureStatistics.of(model[:3](x).detach()).mean)


def test_copies_and_pickles_made_inside_the_block_are_not_seen_and_keep_nothing():
    model, x, file = network(), batch(), io.BytesIO()
    with CollapseProbe(model) as probe:
        twin = copy.deepcopy(model)
        torch.save(model, file)
        file.seek(0)
        stored = torch.load(file, weights_only=False)
        assert torch.equal(twin(x), stored(x))
    assert "nothing seen" in str(probe)
    (hook,) = twin[3]._forward_pre_hooks.values()
    assert hook.see is None


def test_replicas_that_share_the_hooks_are_not_seen():
    model, x = network(), batch()
    with CollapseProbe(model) as probe:
        replica = model[3]._replicate_for_data_parallel()  # as DataParallel makes them, to be called in other threads
        assert replica._forward_pre_hooks
        copy.copy(model[3])(model[:3](x))
    assert "nothing seen" in str(probe)


def test_without_dynamo_the_hook_is_a_plain_one(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    model = network()
    with CollapseProbe(model) as probe:
        (hook,) = model[3]._forward_pre_hooks.values()
        assert not hasattr(type(hook).__call__, "_torchdynamo_disable")
        model(batch())
    assert probe.statistics.num_examples == 32


# ---- what counts


def test_a_model_called_several_times_in_a_step_counts_each_time():
    model = network()
    with CollapseProbe(model) as probe:
        (model(batch(10)) + model(batch(10, seed=2))).sum().backward()
    assert probe.statistics.num_examples == 20


def test_a_layer_called_twice_in_a_forward_counts_twice():
    model, x = Twice(), batch(10)
    with CollapseProbe(model) as probe:
        model(x)
    both = torch.cat([x, model.shared(x).detach()])
    torch.testing.assert_close(probe.statistics.mean, FeatureStatistics.of(both).mean, rtol=1e-12, atol=1e-15)
    assert probe.statistics.num_examples == 20


@pytest.mark.parametrize(("when", "count"), [("always", 30), ("train", 10), ("eval", 20)])
def test_only_calls_in_the_wanted_mode_count(when, count):
    model = network()
    with CollapseProbe(model, when=when) as probe:
        model.train()(batch(10))
        model.eval()(batch(20))
    assert probe.statistics.num_examples == count


def test_blocks_add_up_until_reset():
    model = network()
    probe = CollapseProbe(model)
    for _ in range(2):
        with probe:
            model(batch(10))
    assert probe.statistics.num_examples == 20
    probe.reset()
    with probe:
        model(batch(5))
        assert probe.statistics.num_examples == 5
        probe.reset()
        model(batch(7))
    assert probe.statistics.num_examples == 7


def test_reset_forgets_what_was_left_out():
    model = nn.Sequential(Poison(), nn.Linear(4, 2))
    with CollapseProbe(model) as probe:
        model(batch())
    probe.reset()
    assert (probe.num_nonfinite, probe.num_unlabelled) == (0, 0)


def test_the_probe_stops_exactly_at_max_examples():
    model, x = nn.Linear(4, 2), batch(30)
    with CollapseProbe(model, "", max_examples=25) as probe:
        for rows in x.split(10):
            model(rows)
        model(torch.full((4, 4), torch.nan))
    torch.testing.assert_close(probe.statistics.mean, FeatureStatistics.of(x[:25]).mean, rtol=1e-12, atol=1e-15)
    assert probe.num_nonfinite == 0


def test_examples_that_are_not_finite_are_left_out_and_counted():
    model, x = nn.Sequential(Poison(), nn.Linear(4, 2)), batch(10)
    with CollapseProbe(model) as probe:
        model(x)
        model(x)
    kept = FeatureStatistics.of(x[[1, 3, 4, 5, 6, 7, 8, 9] * 2])
    torch.testing.assert_close(probe.statistics.mean, kept.mean, rtol=1e-12, atol=1e-15)
    assert (probe.statistics.num_examples, probe.num_nonfinite) == (16, 4)
    assert str(probe).endswith("\nleft out: 4 examples with NaN or infinite features")


def test_a_diverged_model_has_a_report_too():
    model = nn.Linear(4, 2)
    with CollapseProbe(model, "") as probe:
        model(torch.full((10, 4), torch.nan))
    assert probe.summary()["covariance_effective_rank"] == 0
    assert "N = 0 examples, d = 4" in str(probe)
    assert "left out: 10 examples with NaN or infinite features" in str(probe)


# ---- classes


def test_statistics_of_each_class():
    model, x, y = nn.Linear(4, 2), batch(30), torch.arange(30) % 3
    with CollapseProbe(model, "", num_classes=3) as probe:
        for rows, labels in zip(x.split(10), y.split(10), strict=True):
            with probe.labels(labels):
                model(rows)
    expected = FeatureStatistics.of(x, y, num_classes=3)
    torch.testing.assert_close(probe.statistics.means, expected.means, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(probe.statistics.within, expected.within, rtol=1e-12, atol=1e-13)


def test_labels_follow_their_examples_where_some_are_left_out():
    model, x, y = nn.Sequential(Poison(), nn.Linear(4, 2)), batch(6), torch.tensor([1, 0, 1, 0, 1, 0])
    with CollapseProbe(model, num_classes=2, max_examples=3) as probe, probe.labels(y):
        model(x)
    kept = [1, 3, 4]
    assert torch.equal(probe.statistics.means, FeatureStatistics.of(x[kept], y[kept], num_classes=2).means)


def test_without_labels_an_example_is_left_out_and_counted():
    model = nn.Linear(4, 2)
    with CollapseProbe(model, "", num_classes=2) as probe:
        with probe.labels(torch.tensor([0, 1])):
            model(batch(2))
        model(batch(2))
    assert (probe.statistics.num_examples, probe.num_unlabelled) == (2, 2)
    assert str(probe).endswith("\nleft out: 2 examples with no labels")


def test_labels_end_with_their_block_even_after_an_error():
    model = nn.Linear(4, 2)
    with CollapseProbe(model, "", num_classes=2) as probe:
        with pytest.raises(KeyError), probe.labels(torch.tensor([0, 1])):
            raise KeyError
        model(batch(2))
    assert probe.num_unlabelled == 2


def test_labels_that_do_not_fit_the_batch_are_an_error():
    model = nn.Linear(4, 2)
    with (
        pytest.raises(ValueError, match="expected a label for each of 3 examples in the input of the model, got 2."),
        CollapseProbe(model, "", num_classes=2) as probe,
        probe.labels(torch.tensor([0, 1])),
    ):
        model(batch(3))
    assert no_hooks(model)


@pytest.mark.parametrize("y", [torch.tensor([0, 3]), torch.tensor([-1]), torch.tensor([0.5]), torch.tensor([[0]])])
def test_labels_out_of_range_are_an_error(y):
    probe = CollapseProbe(nn.Linear(4, 2), "", num_classes=3)
    with pytest.raises(ValueError, match="labels must be a vector of whole numbers from 0 to 2, got"), probe.labels(y):
        pass


def test_labels_need_the_number_of_classes():
    with pytest.raises(ValueError, match=r"make it with CollapseProbe\(..., num_classes=C\)."):
        CollapseProbe(network()).labels(torch.tensor([0])).__enter__()


# ---- the layer


@pytest.mark.parametrize(
    ("model", "layer"),
    [
        (network(), "3"),
        (nn.Linear(4, 2), ""),
        (MLP(hidden=(16, 16, 16))((4,), 10), "head"),
        (SmallCNN()((3, 8, 8), 10), "head"),
        (MobileNetV2()((3, 8, 8), 10), "head"),
        (HookedClassifier(network(), "3"), "network.3"),
        (nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 4), nn.Linear(4, 2)), "2"),  # a bottleneck the other way round
        (Heads(aux=nn.Linear(5, 3), fc=nn.Linear(6, 3)), "fc"),
        (Attention(), "head"),
        (Twice(), "shared"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_classifier_is_the_last_linear_layer(model, layer):
    assert classifier_layer(model) == layer
    assert CollapseProbe(model).layer == layer


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (Heads(digits=nn.Linear(6, 10), parity=nn.Linear(6, 2)), "digits, parity"),
        (Heads(tasks=nn.ModuleDict({"a": nn.Linear(6, 2), "b": nn.Linear(6, 2)})), "tasks.a, tasks.b"),
    ],
)
def test_two_heads_are_an_error_that_names_them(model, names):
    with pytest.raises(ValueError, match=f"several linear layers that could be the classifier: {names}; name one."):
        CollapseProbe(model)


def test_without_a_linear_layer_it_has_to_be_named():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match="no nn.Linear whose input could be the features.* last ones are 1, 2, 3."):
        CollapseProbe(model)
    with pytest.raises(ValueError, match="last ones are none."):
        CollapseProbe(nn.Identity())


def test_an_unknown_layer_is_an_error_with_the_nearest_names():
    model = SmallCNN()((3, 8, 8), 10)
    with pytest.raises(ValueError, match="no layer 'encoder.conv'; the nearest names are encoder.conv3, "):
        CollapseProbe(model, "encoder.conv")


def test_a_layer_with_two_names_is_found_by_either():
    model = Heads(one=nn.Linear(6, 2))
    model.two = model.one
    for name in ("one", "two"):
        with CollapseProbe(model, name) as probe:
            model.one(batch(10, 6))
        assert probe.statistics.num_examples == 10


def test_a_layer_that_was_never_called_is_said_where_its_numbers_are_asked_for():
    model = Heads(unused=nn.Linear(6, 2))
    with CollapseProbe(model, "unused") as probe:
        model.body(batch())
    for ask in (lambda: probe.statistics, lambda: probe.spectrum, probe.summary):
        with pytest.raises(ValueError, match="has not seen the input of layer 'unused' yet: call the model inside"):
            ask()
    assert str(probe) == probe.report() == "The input of layer 'unused': nothing seen yet"


def test_the_mode_is_named_where_nothing_was_seen_in_it():
    model = network().train()
    with CollapseProbe(model, when="eval") as probe:
        model(batch())
    with pytest.raises(ValueError, match='inside `with probe:` with the layer in "eval" mode, and after'):
        _ = probe.statistics


# ---- other people's models


@dataclass
class Answer:
    logits: Tensor
    loss: Tensor


class WithLabels(nn.Module):
    """As in Hugging Face: the batch by name, and an object that has the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 6)
        self.classifier = nn.Linear(6, 3)

    def forward(self, *, inputs: Tensor, labels: Tensor) -> Answer:
        logits = self.classifier(self.encoder(inputs))
        return Answer(logits, nn.functional.cross_entropy(logits, labels))


def test_a_model_that_returns_its_loss_is_probed_too():
    model, x = WithLabels(), batch()
    with CollapseProbe(model) as probe:
        model(inputs=x, labels=torch.zeros(32, dtype=torch.int64)).loss.backward()
    assert torch.equal(probe.statistics.mean, FeatureStatistics.of(model.encoder(x).detach()).mean)


@pytest.mark.parametrize("model", [HookedClassifier(network(), "3"), MLP(hidden=(6,))((4,), 3)])
def test_the_features_of_our_own_models_are_those_of_their_output(model):
    with CollapseProbe(model) as probe:
        output: Output = model(batch())
    assert torch.equal(probe.statistics.mean, FeatureStatistics.of(output.features.detach()).mean)


def test_a_compiled_model_is_seen_in_each_block_and_only_there():
    torch.compiler.reset()
    model, x = network(), batch()
    plain = model(x)
    compiled = torch.compile(model, backend="eager")
    probe = CollapseProbe(compiled)
    assert probe.layer == "_orig_mod.3"
    for seen in (64, 128):
        with probe:
            assert torch.equal(compiled(x), plain)
            compiled(x).sum().backward()
        compiled(x)
        assert probe.statistics.num_examples == seen
    expected = FeatureStatistics.of(model[:3](x).detach())
    torch.testing.assert_close(probe.statistics.mean, expected.mean, rtol=1e-6, atol=1e-8)
    torch.compiler.reset()


def test_a_model_that_was_compiled_before_the_block_is_seen_after_a_reset_of_the_compiler():
    torch.compiler.reset()
    model, x = network(), batch()
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    probe = CollapseProbe(compiled)
    with probe:
        compiled(x)
    with pytest.raises(ValueError, match="and after torch.compiler.reset\\(\\) if torch.compile has traced it before."):
        _ = probe.statistics
    torch.compiler.reset()
    with probe:
        compiled(x)
    assert probe.statistics.num_examples == 32
    torch.compiler.reset()


# ---- the report


def test_the_report_has_the_measures_of_both_spectra_and_their_sparklines():
    model = network()
    with CollapseProbe(model) as probe:
        model(batch(100))
    lines, summary = str(probe).splitlines(), probe.summary()
    assert lines[0] == "The input of layer '3'"
    assert lines[1] == f"N = 100 examples, d = 6, dead dimensions: {summary['num_dead']}"
    for line, label, name in (
        (lines[3], "effective rank", "effective_rank"),
        (lines[4], "participation ratio", "participation_ratio"),
        (lines[5], "dimensions for 90 %", "dims_90"),
        (lines[6], "dimensions for 99 %", "dims_99"),
    ):
        assert line.startswith(label)
        left, right = map(float, line.removeprefix(label).split())
        assert left == pytest.approx(summary[f"covariance_{name}"], abs=0.005)
        assert right == pytest.approx(summary[f"correlation_{name}"], abs=0.005)
    assert lines[8].startswith("covariance   |█")
    assert lines[9].startswith("correlation  |█")
    assert len(lines) == 10


def test_the_report_says_how_far_few_examples_can_be_trusted():
    model = network()
    with CollapseProbe(model) as probe:
        model(batch(29))
    assert "Few examples: 29 for d = 6." in str(probe)
    with probe:
        model(batch(1))
    assert "Few examples" not in str(probe)


def test_the_report_can_do_without_unicode():
    model = network()
    with CollapseProbe(model) as probe:
        model(batch())
    assert probe.report(ascii_only=True).isascii()


# ---- mistakes


def test_a_block_in_its_own_block_is_an_error_and_the_outer_one_goes_on():
    model = network()
    with CollapseProbe(model) as probe:
        with pytest.raises(ValueError, match="inside its `with` block already; make a second one"), probe:
            pass
        model(batch())
    assert probe.statistics.num_examples == 32
    assert no_hooks(model)


@pytest.mark.parametrize(
    ("model", "x", "what"),
    [
        (nn.Identity(), torch.zeros(3), r"torch.float32 of shape \(3,\)"),
        (nn.Identity(), torch.zeros(1, 1, 1, 1, 1), r"torch.float32 of shape \(1, 1, 1, 1, 1\)"),
        (nn.Identity(), torch.zeros(3, 2, dtype=torch.int64), r"torch.int64 of shape \(3, 2\)"),
        (nn.Identity(), (torch.zeros(3, 2),), "tuple"),
    ],
)
def test_what_is_no_feature_vector_is_an_error_at_the_first_call(model, x, what):
    with (
        pytest.raises(ValueError, match=rf"the output of the model must be .*, got {what}; choose another layer."),
        CollapseProbe(model, "", take="output"),
    ):
        model(x)
    assert no_hooks(model)


def test_a_layer_that_is_called_without_anything_is_an_error():
    class Constant(nn.Module):
        def forward(self) -> int:
            return 1

    model = Constant()
    with pytest.raises(ValueError, match="the input of the model must be .*, got NoneType"), CollapseProbe(model, ""):
        model()


def test_a_width_that_changes_is_an_error():
    model = nn.Identity()
    with CollapseProbe(model, ""):
        model(batch())
        with pytest.raises(ValueError, match=r"expected 4 features an example, got shape \(2, 3\)"):
            model(torch.zeros(2, 3))


@pytest.mark.parametrize("setting", [dict(take="both"), dict(when="never")])
def test_unknown_words_are_an_error(setting):
    with pytest.raises(ValueError, match='take must be "input" or "output" and when "always", "train" or "eval", got'):
        CollapseProbe(network(), **setting)


@pytest.mark.parametrize("setting", [dict(max_examples=0), dict(num_classes=1)])
def test_numbers_out_of_range_are_an_error(setting):
    with pytest.raises(ValueError, match="max_examples must be None or at least 1 and num_classes None or at least 2"):
        CollapseProbe(network(), **setting)
