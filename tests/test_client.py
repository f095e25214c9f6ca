from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest
import torch
from members import PullBack, initial_model, noisy_network, one_client, small_federation
from torch import Tensor, nn
from torch.nn import functional as F

from decollapse.client import ClientUpdate
from decollapse.core import Broadcast, ClientData, ModelState, Output
from decollapse.engines.serial import Serial
from decollapse.frozen import FrozenModels
from decollapse.models import MLP, Classifier
from decollapse.objective import Step
from decollapse.optim import SGD, Adam, LocalOptimizer
from decollapse.sam import SAM
from decollapse.terms.cross_entropy import CrossEntropy
from decollapse.terms.proximal import Proximal


def linear() -> Classifier:
    return Classifier(nn.Flatten(), nn.Linear(2, 2))


DATA = ClientData(
    client=4,
    x=torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]),
    y=torch.tensor([0, 1, 1]),
    num_classes=2,
    preprocess=lambda x: x,
)
START = ModelState({"head.weight": torch.zeros(2, 2), "head.bias": torch.zeros(2)})


def test_one_step_of_gradient_descent_by_hand() -> None:
    # At zero weights p = 1/2; the gradient of the bias is mean(p - onehot) = (1/2 - 1/3, 1/2 - 2/3).
    update = ClientUpdate(optimizer=SGD(lr=1.0, momentum=0.0), batch_size=3)
    result, state = update(linear(), DATA, Broadcast(1, START, seed=0), {})
    torch.testing.assert_close(result.delta["head.bias"], torch.tensor([-1 / 6, 1 / 6]))
    assert (result.client, result.num_examples, result.num_steps) == (4, 3, 1)
    assert result.metrics["cross_entropy"] == pytest.approx(0.693147, abs=1e-5)
    assert state == {}


class Centred(nn.Module):
    """Keeps a running mean by replacing its buffer, not in place."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 2)
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, x: Tensor) -> Output:
        if self.training:
            self.mean = 0.5 * self.mean + 0.5 * x.mean(0)
        return Output(self.head(x - self.mean), x)


def test_a_buffer_that_the_model_replaces_is_sent_as_it_is_after_training() -> None:
    update = ClientUpdate(batch_size=3)
    result, _ = update(Centred(), DATA, Broadcast(1, ModelState.of(Centred()), seed=0), {})
    assert result.buffers["mean"].tolist() == pytest.approx([1 / 3, 1 / 3])


def test_it_takes_the_steps_of_a_hand_written_loop() -> None:
    data, start = one_client(21), initial_model()
    update = ClientUpdate(epochs=2, batch_size=8, shuffle=False, optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=1e-3))
    model = noisy_network().eval()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    result, _ = update(model, data, Broadcast(1, start, seed=0), {})

    start.load_into(model)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    for _ in range(2):
        for begin in (0, 8, 16):
            optimizer.zero_grad()
            x, y = data.preprocess(data.x[begin : begin + 8]), data.y[begin : begin + 8]
            F.cross_entropy(model(x).logits, y).backward()
            optimizer.step()
    for name, param in model.named_parameters():
        torch.testing.assert_close(result.delta[name], param.detach() - start.params[name], rtol=1e-4, atol=1e-6)
    assert result.num_steps == 6


def test_every_epoch_shows_every_example_once() -> None:
    seen: list[Tensor] = []

    @dataclass(frozen=True)
    class Spy:
        name: ClassVar[str] = "spy"

        def __call__(self, step: Step) -> Tensor:
            seen.append(step.x)
            return step.output.logits.sum() * 0

    data = replace(DATA, x=torch.arange(10.0).repeat(2, 1).T.contiguous(), y=torch.zeros(10, dtype=torch.long))
    update = ClientUpdate(objective=(CrossEntropy(), Spy()), epochs=2, batch_size=4)
    update(linear(), data, Broadcast(1, START, seed=0), {})
    first, second = torch.cat(seen[:3])[:, 0], torch.cat(seen[3:])[:, 0]
    assert [len(x) for x in seen] == [4, 4, 2, 4, 4, 2]
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(10))
    assert first.tolist() != second.tolist()


def test_the_objective_is_the_sum_of_its_terms() -> None:
    @dataclass(frozen=True)
    class Linear:
        name: ClassVar[str] = "linear"

        def __call__(self, step: Step) -> Tensor:
            return 3.0 * step.params["head.bias"].sum()

    update = ClientUpdate(objective=(Linear(),), optimizer=SGD(lr=0.1, momentum=0.0), batch_size=3)
    result, _ = update(linear(), DATA, Broadcast(1, START, seed=0), {})
    torch.testing.assert_close(result.delta["head.bias"], torch.tensor([-0.3, -0.3]))
    assert result.metrics.keys() == {"linear", "accuracy"}


def test_a_term_sees_the_batch_the_anchor_the_class_counts_and_frozen_models() -> None:
    @dataclass(frozen=True)
    class Look:
        name: ClassVar[str] = "look"
        notes: list[Step] = field(default_factory=list)

        def __call__(self, step: Step) -> Tensor:
            frozen = step.frozen(step.anchor)
            assert isinstance(frozen, Output)
            assert not frozen.logits.requires_grad
            self.notes.append(step)
            return step.output.logits.sum() * 0

    look = Look()
    update = ClientUpdate(objective=(CrossEntropy(), look), epochs=3, batch_size=3, optimizer=SGD(lr=0.5))
    update(linear(), DATA, Broadcast(1, START, seed=0), {})
    assert look.notes[0].data.class_counts.tolist() == [1, 2]
    assert torch.equal(look.notes[2].anchor.params["head.bias"], START.params["head.bias"])
    assert torch.equal(look.notes[2].frozen(START).logits, torch.zeros(3, 2))


def test_a_frozen_pass_leaves_batchnorm_alone() -> None:
    model, data = noisy_network(), one_client()
    initial_model().load_into(model)
    model.train()
    before = ModelState.of(model)

    frozen = FrozenModels(model, (), None, batch_size=8)
    frozen.output(initial_model(), data.preprocess(data.x), torch.arange(len(data)))
    after = ModelState.of(model)
    assert all(torch.equal(before.buffers[name], after.buffers[name]) for name in before.buffers)
    assert model.training


def test_a_strong_proximal_term_keeps_the_client_at_the_anchor_and_none_is_fedavg() -> None:
    broadcast, federation = Broadcast(1, initial_model(), seed=0), small_federation()

    def drift(mu: float | None) -> Tensor:
        terms = (CrossEntropy(),) if mu is None else (CrossEntropy(), Proximal(mu=mu))
        update = ClientUpdate(objective=terms, epochs=3, batch_size=8, optimizer=SGD(lr=0.05, momentum=0.0))
        with Serial()(federation) as engine:
            ((result, _),) = engine.run(update, broadcast, [0], {})
        return torch.cat([leaf.flatten() for leaf in result.delta.values()])

    assert torch.equal(drift(0.0), drift(None))
    assert drift(20.0).norm() < 0.3 * drift(1.0).norm() < 0.3 * 1.01 * drift(0.0).norm()


def test_a_stateful_term_starts_from_its_initial_state_and_keeps_the_next() -> None:
    update = ClientUpdate(objective=(CrossEntropy(), PullBack()), batch_size=8)
    with Serial()(small_federation()) as engine:
        ((result, state),) = engine.run(update, Broadcast(1, initial_model(), seed=0), [0], {})
    local = initial_model().params["head.bias"] + result.delta["head.bias"]
    assert torch.equal(state["pull_back"]["head.bias"], local)


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "none"])
def test_a_client_of_one_example_trains(norm: str) -> None:
    model = MLP(hidden=(8,), norm=norm)((1, 8, 8), 4)  # type: ignore[arg-type]  # parametrised
    data = replace(one_client(4), x=one_client(4).x[:1], y=one_client(4).y[:1])
    result, _ = ClientUpdate(epochs=2)(model, data, Broadcast(1, ModelState.of(model), seed=0), {})
    assert all(torch.isfinite(leaf).all() for leaf in result.delta.values())


def test_adam_trains_too() -> None:
    result, _ = ClientUpdate(optimizer=Adam(lr=0.1), batch_size=3)(linear(), DATA, Broadcast(1, START, seed=0), {})
    torch.testing.assert_close(result.delta["head.bias"].abs(), torch.full((2,), 0.1), rtol=1e-3, atol=0)


def after(optimizer: LocalOptimizer, epochs: int) -> tuple[ModelState, int]:
    model = noisy_network()
    update = ClientUpdate(epochs=epochs, batch_size=20, optimizer=optimizer)
    result, _ = update(model, one_client(20), Broadcast(1, initial_model(), seed=0), {})
    return ModelState.of(model), result.num_steps


def test_the_second_pass_of_a_step_leaves_batchnorms_statistics_alone() -> None:
    sgd = SGD(lr=0.05)
    plain, _ = after(sgd, 1)
    sharp, num_steps = after(SAM(sgd, rho=0.5), 1)
    assert num_steps == 1
    for name, leaf in plain.buffers.items():
        assert torch.equal(leaf, sharp.buffers[name]), name
    assert any(not torch.equal(leaf, sharp.params[name]) for name, leaf in plain.params.items())


def test_a_batch_counts_once_however_often_the_optimiser_looks() -> None:
    state, num_steps = after(SAM(SGD(lr=0.05), rho=0.5), 3)
    assert num_steps == 3
    assert state.buffers["encoder.1.num_batches_tracked"].item() == 3


def test_metrics_are_those_at_the_weights_and_not_uphill() -> None:
    def metrics(optimizer: LocalOptimizer) -> dict[str, float]:
        update = ClientUpdate(batch_size=20, optimizer=optimizer)
        return update(noisy_network(), one_client(20), Broadcast(1, initial_model(), seed=0), {})[0].metrics

    assert metrics(SAM(SGD(), rho=0.5)) == metrics(SGD())


def test_sam_with_batchnorm_steps_with_the_gradient_uphill_in_train_mode() -> None:
    @dataclass(frozen=True)
    class Modes:
        name: ClassVar[str] = "modes"
        model: nn.Module = field(default_factory=noisy_network)
        seen: list[bool] = field(default_factory=list)

        def __call__(self, step: Step) -> Tensor:
            self.seen.append(self.model.training)
            return step.output.features.new_zeros(())

    modes = Modes()
    update = ClientUpdate((CrossEntropy(), modes), batch_size=8, optimizer=SAM(SGD(), rho=0.5))
    update(modes.model, one_client(20), Broadcast(1, initial_model(), seed=0), {})
    assert modes.seen == [True] * 6


def test_a_client_without_examples_is_named() -> None:
    empty = replace(DATA, x=DATA.x[:0], y=DATA.y[:0])
    with pytest.raises(ValueError, match="client 4 has no examples"):
        ClientUpdate()(linear(), empty, Broadcast(1, START, seed=0), {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "at least 1"),
        ({"batch_size": 0}, "at least 1"),
        ({"objective": ()}, "at least one term"),
        ({"objective": (CrossEntropy(), CrossEntropy())}, "no two of the same name"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClientUpdate(**settings)  # type: ignore[arg-type]  # parametrised
