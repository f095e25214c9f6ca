from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from members import initial_model, noisy_network, one_client
from torch import Tensor, nn

from decollapse import tree
from decollapse.client import ClientUpdate
from decollapse.core import Broadcast, ClientData, ModelState, Output
from decollapse.data import Flip
from decollapse.frozen import FrozenModels
from decollapse.objective import Step, Term
from decollapse.terms.cross_entropy import CrossEntropy
from decollapse.terms.moon import MOON
from decollapse.terms.not_true_distillation import NotTrueDistillation

LAYERS = ("encoder.0", "encoder.4")


def other_model() -> ModelState:
    """Weights that are not the client's, and statistics that are not BatchNorm's first ones."""
    start = initial_model()
    shifted = {
        name: leaf + 0.3 if leaf.is_floating_point() else leaf for name, leaf in (start.params | start.buffers).items()
    }
    return ModelState({name: shifted[name] for name in start.params}, {name: shifted[name] for name in start.buffers})


def models(model: nn.Module, data: ClientData | None, layers: tuple[str, ...] = LAYERS) -> FrozenModels:
    return FrozenModels(model.train(), layers, data, batch_size=8)


def batches(data: ClientData) -> list[Tensor]:
    return list(torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).split(6))


@contextmanager
def counted(model: nn.Module) -> Iterator[list[bool]]:
    """For each forward pass of `model`, whether it was in training mode."""
    passes: list[bool] = []
    hook = model.register_forward_pre_hook(lambda module, args: passes.append(module.training))
    try:
        yield passes
    finally:
        hook.remove()


def every_tensor(output: Output) -> list[Tensor]:
    return [output.logits, output.features, *output.layers.values()]


def test_the_output_is_that_of_a_copy_with_these_weights_in_eval_mode() -> None:
    data, copy = one_client(), noisy_network()
    other_model().load_into(copy)
    x, rows = data.preprocess(data.x), torch.arange(len(data))
    ours = models(noisy_network(), None).output(other_model(), x, rows)
    theirs = copy.eval()(x)
    torch.testing.assert_close(ours.logits, theirs.logits)
    torch.testing.assert_close(ours.features, theirs.features)
    torch.testing.assert_close(ours.layers["encoder.0"], copy.encoder[0](x).mean((2, 3)))


def test_remembered_outputs_are_those_of_each_batch_to_rounding() -> None:
    data, model = one_client(21), noisy_network()
    remembering, fresh = models(model, data), models(model, None)
    for rows in batches(data):
        x = data.preprocess(data.x[rows])
        pairs = zip(
            every_tensor(remembering.output(other_model_once(), x, rows)),
            every_tensor(fresh.output(other_model_once(), x, rows)),
            strict=True,
        )
        for ours, theirs in pairs:
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


OTHER = other_model()


def other_model_once() -> ModelState:
    return OTHER


def test_outputs_have_no_gradient() -> None:
    data = one_client()
    rows = torch.arange(6)
    for kept in (data, None):
        output = models(noisy_network(), kept).output(OTHER, data.preprocess(data.x[rows]), rows)
        assert not any(leaf.requires_grad for leaf in every_tensor(output))


def test_the_models_own_weights_statistics_mode_and_the_random_numbers_are_left_alone() -> None:
    data, model = one_client(), noisy_network()
    before, random = ModelState.of(model), torch.get_rng_state()
    rows = torch.arange(6)
    for kept in (data, None):
        models(model, kept).output(OTHER, data.preprocess(data.x[rows]), rows)
    after = ModelState.of(model)
    assert all(torch.equal(leaf, after.params[name]) for name, leaf in before.params.items())
    assert all(torch.equal(leaf, after.buffers[name]) for name, leaf in before.buffers.items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in model.modules())
    assert not model._forward_hooks


def test_the_other_models_statistics_are_left_alone() -> None:
    data, other = one_client(), other_model()
    rows = torch.arange(6)
    models(noisy_network(), data).output(other, data.preprocess(data.x[rows]), rows)
    for name, leaf in other_model().buffers.items():
        assert torch.equal(other.buffers[name], leaf)


def passes(frozen: FrozenModels, others: list[ModelState], data: ClientData) -> int:
    """How often the model ran for two epochs of these models."""
    with counted(frozen.model) as seen:
        for rows in batches(data) * 2:
            for other in others:
                frozen.output(other, data.preprocess(data.x[rows]), rows)
    assert not any(seen)
    return len(seen)


def test_a_model_runs_once_over_the_examples_and_is_known_by_the_tree_of_its_parameters() -> None:
    data, twin = one_client(21), other_model()
    once = 3  # 21 examples, 8 at a time
    assert passes(models(noisy_network(), data), [OTHER], data) == once
    assert passes(models(noisy_network(), data), [OTHER, ModelState(OTHER.params, OTHER.buffers)], data) == once
    assert passes(models(noisy_network(), data), [OTHER, twin], data) == 2 * once


def test_where_inputs_change_it_runs_at_every_step() -> None:
    data = one_client(21)
    assert passes(models(noisy_network(), None), [OTHER], data) == 2 * 4


def test_models_are_told_apart_even_when_an_earlier_one_is_gone() -> None:
    # A freed tree may leave its address to the next one.
    data, rows = one_client(), torch.arange(6)
    x = data.preprocess(data.x[rows])
    frozen = models(noisy_network(), data)
    for factor in range(20):
        other = ModelState(tree.scale(OTHER.params, float(factor)), OTHER.buffers)
        expected = models(noisy_network(), None).output(other, x, rows)
        torch.testing.assert_close(frozen.output(other, x, rows).logits, expected.logits, rtol=1e-4, atol=1e-4)
        del other


def trained(objective: tuple[Term, ...], *, augmented: bool = False, state: Any = None) -> tuple[list[bool], Any]:
    """The passes of three epochs of a client with 21 examples, and its next state."""
    update = ClientUpdate(objective, epochs=3, batch_size=8, augment=(Flip(p=0.0),) if augmented else ())
    model = noisy_network()
    with counted(model) as seen:
        _, state = update(model, one_client(21), Broadcast(1, initial_model(), seed=0), state or {})
    return seen, state


@pytest.mark.parametrize("augmented", [False, True])
def test_a_teacher_costs_one_pass_a_round_without_augmentation_and_one_a_step_with_it(augmented: bool) -> None:
    seen, _ = trained((CrossEntropy(), NotTrueDistillation()), augmented=augmented)
    assert seen.count(True) == 9
    assert seen.count(False) == (9 if augmented else 3)


@pytest.mark.parametrize("augmented", [False, True])
def test_two_frozen_models_cost_two(augmented: bool) -> None:
    _, state = trained((CrossEntropy(), MOON()))
    seen, _ = trained((CrossEntropy(), MOON()), augmented=augmented, state=state)
    assert seen.count(True) == 9
    assert seen.count(False) == 2 * (9 if augmented else 3)


def test_two_terms_share_the_teacher() -> None:
    @dataclass(frozen=True)
    class Second(NotTrueDistillation):
        name: ClassVar[str] = "second"

    seen, _ = trained((CrossEntropy(), NotTrueDistillation(), Second()))
    assert seen.count(False) == 3


def test_a_round_with_a_teacher_has_the_weights_of_one_that_asks_at_every_step() -> None:
    def asked(remember: bool) -> ModelState:
        update = ClientUpdate(
            (CrossEntropy(), NotTrueDistillation(beta=3.0)),
            epochs=2,
            batch_size=8,
            augment=() if remember else (_Same(),),
        )
        model = noisy_network()
        update(model, one_client(21), Broadcast(1, OTHER, seed=0), {})
        return ModelState.of(model)

    ours, theirs = asked(True), asked(False)
    for name, leaf in (ours.params | ours.buffers).items():
        torch.testing.assert_close(leaf, (theirs.params | theirs.buffers)[name], rtol=1e-4, atol=1e-5)


@dataclass(frozen=True)
class _Same:
    """An augmentation that changes nothing and draws nothing."""

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x


@pytest.mark.parametrize("augment", [(), (_Same(),)], ids=["remembered", "every step"])
def test_teachers_leave_the_clients_statistics_and_dropout_as_without_them(augment: tuple[Any, ...]) -> None:
    @dataclass(frozen=True)
    class Looks:
        name: ClassVar[str] = "looks"

        def __call__(self, step: Step) -> Tensor:
            look: Callable[[ModelState], Output] = step.frozen
            look(step.anchor)
            look(OTHER)
            return step.output.features.new_zeros(())

    def after(*terms: Term) -> ModelState:
        model = noisy_network()
        update = ClientUpdate((CrossEntropy(), *terms), epochs=2, batch_size=8, augment=augment)
        update(model, one_client(21), Broadcast(1, initial_model(), seed=0), {})
        return ModelState.of(model)

    plain, looking = after(), after(Looks())
    for name, leaf in (plain.params | plain.buffers).items():
        assert torch.equal(leaf, (looking.params | looking.buffers)[name]), name
