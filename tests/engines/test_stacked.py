from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from contract.methods import METHODS
from members import PullBack, noisy_network, small_dataset
from torch import Tensor, nn

from decollapse.buffers import Recalibrate
from decollapse.checkpoint import load_checkpoint, save_checkpoint
from decollapse.client import ClientUpdate
from decollapse.config import from_table, to_table
from decollapse.core import Broadcast, ClientCall, ClientData, ClientResult, ClientState, ModelState
from decollapse.data import Crop, FederatedData, Flip
from decollapse.engines import ClientError, EngineSettings, Federation
from decollapse.engines.serial import Serial
from decollapse.engines.stacked import Stacked
from decollapse.engines.stacked_training import obstacle
from decollapse.experiment import Experiment, prepare
from decollapse.measurements import EvaluationSettings
from decollapse.models import MLP, Classifier, ModelBuilder
from decollapse.objective import Step
from decollapse.optim import SGD, Adam
from decollapse.sam import SAM
from decollapse.server_state import ServerState
from decollapse.terms.cross_entropy import CrossEntropy
from decollapse.terms.feddecorr import FedDecorr
from decollapse.terms.proximal import Proximal
from decollapse.tree import Tree

Reply = tuple[ClientResult, ClientState]


class CountingForwards(Classifier):
    """A network with BatchNorm and without dropout that counts its forward passes."""

    count: ClassVar[int] = 0

    def __init__(self) -> None:
        encoder = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1, bias=False),  # its gradient under BatchNorm would be rounding and no more
            nn.BatchNorm2d(6),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )
        super().__init__(encoder, nn.Linear(24, 4))

    def forward(self, x: Tensor) -> object:  # type: ignore[override]
        CountingForwards.count += 1
        return super().forward(x)


def equal_clients(build: ModelBuilder | type = CountingForwards, sizes: Sequence[int] = (12,) * 5) -> Federation:
    """Clients of `sizes` examples of all classes; every fourth example is of one class."""
    order = torch.randperm(160, generator=torch.Generator().manual_seed(0)).numpy()
    ends = np.cumsum(sizes)
    parts = [order[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    return Federation(build, FederatedData(small_dataset(), parts))


def start_of(federation: Federation, dtype: torch.dtype = torch.float64) -> ModelState:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return ModelState.of(federation.build_model().to(dtype))


def replies(
    settings: EngineSettings,
    federation: Federation,
    call: ClientCall,
    cohort: Sequence[int] = range(5),
    broadcast: Broadcast | None = None,
) -> list[Reply]:
    dtype = torch.float64 if settings.dtype == "float64" else torch.float32
    with settings(federation) as engine:
        return list(engine.run(call, broadcast or Broadcast(1, start_of(federation, dtype), seed=7), cohort, {}))


def assert_same(ours: Sequence[Reply], theirs: Sequence[Reply], *, rtol: float, atol: float) -> None:
    """Everything but the seconds."""
    for (a, state), (b, other) in zip(ours, theirs, strict=True):
        assert (a.client, a.num_examples, a.num_steps, a.step_size) == (
            b.client,
            b.num_examples,
            b.num_steps,
            b.step_size,
        )
        assert a.metrics == pytest.approx(b.metrics, rel=rtol, abs=atol)
        assert list(a.metrics) == list(b.metrics)
        assert set(a.parts) == set(b.parts)
        for x, y in ((a.delta, b.delta), (a.buffers, b.buffers), (a.extras, b.extras), *pairs(state, other)):
            assert x.keys() == y.keys()
            for name, leaf in x.items():
                torch.testing.assert_close(leaf, y[name], rtol=rtol, atol=atol, equal_nan=True)


def pairs(a: ClientState, b: ClientState) -> list[tuple[Tree, Tree]]:
    assert a.keys() == b.keys()
    return [(a[name], b[name]) for name in a]


BASE = ClientUpdate(batch_size=8, epochs=2, optimizer=SGD(lr=0.05, momentum=0.9))
CALLS = {
    "cross_entropy": BASE,
    "proximal": replace(BASE, objective=(CrossEntropy(), Proximal(mu=0.5))),
    "feddecorr": replace(BASE, objective=(CrossEntropy(), FedDecorr(beta=0.1))),
    "feddecorr on covariance": replace(BASE, objective=(CrossEntropy(), FedDecorr(beta=0.1, matrix="covariance"))),
    "all three": replace(BASE, objective=(CrossEntropy(label_smoothing=0.1), FedDecorr(), Proximal(mu=0.5))),
    "a term of strength 0": replace(BASE, objective=(CrossEntropy(), FedDecorr(beta=0.0), Proximal(mu=0.0))),
    "no momentum": replace(BASE, optimizer=SGD(lr=0.05, momentum=0.0)),
    "nesterov and weight decay": replace(BASE, optimizer=SGD(lr=0.05, nesterov=True, weight_decay=0.1)),
    "adam": replace(BASE, optimizer=Adam(lr=1e-3, weight_decay=0.1)),
    "five epochs in order": replace(BASE, epochs=5, shuffle=False),
    "a last batch of one": replace(BASE, batch_size=11, objective=(CrossEntropy(), FedDecorr())),
    "augmentation": replace(BASE, augment=(Crop(padding=1), Flip())),
    "a frozen head": replace(BASE, frozen=("head",)),
}
MODELS = {
    "batch norm": CountingForwards,
    "batch norm of vectors": partial(MLP(hidden=(16,), norm="batch"), (1, 8, 8), 4),
    "perceptron": partial(MLP(hidden=(16,)), (1, 8, 8), 4),
    "group norm": partial(MLP(hidden=(16, 16), norm="group"), (1, 8, 8), 4),
}


def test_one_step_by_hand() -> None:
    # logits 0, so the gradient of the first class's weights is (1/2 - 1) x, with x = 1, 2, 3 of a client each
    class Ones(Classifier):
        def __init__(self) -> None:
            super().__init__(nn.Identity(), nn.Linear(1, 2))

    class Clients:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, client: int) -> ClientData:
            return ClientData(client, torch.tensor([[client + 1.0]]), torch.tensor([0]), 2, lambda x: x)

        def num_examples(self, client: int) -> int:
            return 1

        def share_memory(self) -> None: ...

    zeros = ModelState({"head.weight": torch.zeros(2, 1), "head.bias": torch.zeros(2)})
    call = ClientUpdate(optimizer=SGD(lr=1.0, momentum=0.0))
    found = replies(Stacked(), Federation(Ones, Clients()), call, range(3), Broadcast(1, zeros, seed=0))
    assert [result.delta["head.weight"].tolist() for result, _ in found] == [[[k / 2], [-k / 2]] for k in (1, 2, 3)]
    assert [result.delta["head.bias"].tolist() for result, _ in found] == [[0.5, -0.5]] * 3
    assert found[0][0].metrics == {"cross_entropy": pytest.approx(np.log(2)), "accuracy": 1.0}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", CALLS)
def test_results_are_the_serial_engines_up_to_rounding(name: str, model: str) -> None:
    federation = equal_clients(MODELS[model])
    double = [
        replies(engine, federation, CALLS[name]) for engine in (Stacked(dtype="float64"), Serial(dtype="float64"))
    ]
    assert_same(*double, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in CALLS if name != "adam"])  # divides by noise where a gradient is 0
def test_so_they_are_in_single_precision(name: str) -> None:
    federation = equal_clients(MODELS["perceptron"])
    assert_same(*(replies(engine, federation, CALLS[name]) for engine in (Stacked(), Serial())), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "name",
    [name for name, it in METHODS.items() if not name.startswith(("aggregate", "server")) and not obstacle(it.client)],
)
def test_every_method_without_a_state_is_stacked_and_gives_the_serial_results(name: str) -> None:
    algorithm, federation = METHODS[name], equal_clients()
    start = ServerState.initial(start_of(federation), algorithm, num_clients=5)
    run = partial(replies, federation=federation, call=algorithm.client, broadcast=start.broadcast(algorithm, seed=2))
    serial = run(Serial(dtype="float64"))
    CountingForwards.count = 0
    stacked = run(Stacked(dtype="float64"))
    assert_same(stacked, serial, rtol=1e-8, atol=1e-11)
    assert CountingForwards.count <= 2 * 2 * 2  # 2 epochs of 2 batches, and perhaps a teacher's pass for each


def test_clients_of_one_size_share_every_forward_pass() -> None:
    CountingForwards.count = 0
    replies(Stacked(), equal_clients(), CALLS["cross_entropy"])
    assert CountingForwards.count == 4


def test_a_stack_has_no_more_examples_in_a_step_than_asked_for() -> None:
    CountingForwards.count = 0
    found = replies(Stacked(examples=24), equal_clients(sizes=(12,) * 6), BASE, range(6))  # 3 clients x 8 examples
    assert CountingForwards.count == 2 * 4
    assert [result.client for result, _ in found] == [0, 1, 2, 3, 4, 5]


def test_clients_of_other_sizes_train_alone_with_the_serial_bits_and_all_come_in_cohort_order() -> None:
    federation, cohort = equal_clients(sizes=(12, 5, 12, 20, 5, 12)), [5, 1, 3, 0, 4, 2]
    stacked, serial = (replies(engine, federation, BASE, cohort) for engine in (Stacked(), Serial()))
    assert [result.client for result, _ in stacked] == cohort
    assert_same(stacked, serial, rtol=1e-4, atol=1e-6)
    for position in (1, 2, 4):
        assert_same([stacked[position]], [serial[position]], rtol=0, atol=0)


def test_a_result_does_not_depend_on_who_else_is_in_the_stack() -> None:
    federation = equal_clients()
    first, *_ = replies(Stacked(dtype="float64"), federation, CALLS["all three"], [0, 1, 2])
    *_, last = replies(Stacked(dtype="float64"), federation, CALLS["all three"], [4, 3, 1, 0])
    assert_same([first], [last], rtol=1e-9, atol=1e-12)


def test_a_neighbour_that_diverges_harms_nobody() -> None:
    @dataclass(frozen=True)
    class Spoiled:
        sound: FederatedData

        def __len__(self) -> int:
            return 5

        def __getitem__(self, client: int) -> ClientData:
            data = self.sound[client]
            x = data.preprocess(data.x)
            return replace(data, x=x * torch.nan if client == 1 else x, preprocess=lambda x: x)

        def num_examples(self, client: int) -> int:
            return 12

        def share_memory(self) -> None: ...

    federation = equal_clients()
    assert isinstance(federation.clients, FederatedData)
    spoiled = replies(Stacked(), Federation(federation.build_model, Spoiled(federation.clients)), BASE)
    sound = replies(Stacked(), federation, BASE)
    assert spoiled[1][0].delta["head.weight"].isnan().all()
    others = [0, 2, 3, 4]
    assert_same([spoiled[k] for k in others], [sound[k] for k in others], rtol=1e-4, atol=1e-6)


def test_tensors_are_contiguous_and_integer_buffers_stay_integers() -> None:
    for result, _ in replies(Stacked(), equal_clients(), BASE):
        leaves = result.delta | result.buffers
        assert all(leaf.is_contiguous() and not leaf.requires_grad for leaf in leaves.values())
        assert result.buffers["encoder.1.num_batches_tracked"].equal(torch.tensor(4))


@dataclass(frozen=True)
class Asking:
    """A term that asks for something that vmap cannot give."""

    name: ClassVar[str] = "asking"
    what: str

    def __call__(self, step: Step) -> Tensor:
        size = step.output.features.square().mean()
        if self.what == "a number":
            return size * (2.0 if size.item() > 0 else 1.0)
        if self.what == "the client":
            return size * (1 + int(step.data.client))
        return size * step.data.preprocess(step.data.x[:1]).double().square().mean()


@pytest.mark.parametrize("what", ["a number", "the client", "the preprocessing of the client"])
def test_a_term_that_vmap_refuses_is_asked_client_by_client_and_the_rest_is_stacked(what: str) -> None:
    call = replace(BASE, objective=(CrossEntropy(), Asking(what)))
    CountingForwards.count = 0
    stacked = replies(Stacked(dtype="float64"), equal_clients(), call)
    assert CountingForwards.count == 4
    assert_same(stacked, replies(Serial(dtype="float64"), equal_clients(), call), rtol=1e-9, atol=1e-12)


def test_buffers_reset_forget_what_the_server_sent() -> None:
    federation, call = equal_clients(), replace(BASE, buffers="reset")
    clean = start_of(federation)
    spoiled = clean.replaced({"encoder.1.running_mean": torch.full((6,), 1e3, dtype=torch.float64)})
    found = [
        replies(Stacked(dtype="float64"), federation, call, range(5), Broadcast(1, it, 7)) for it in (clean, spoiled)
    ]
    assert_same(*found, rtol=0, atol=0)


class Remembering(nn.Module):
    """Centres features by a running mean that each pass puts in the place of the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(64))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        self.mean = 0.5 * self.mean + 0.5 * x.mean(0)
        return x - self.mean


def test_a_buffer_that_a_model_replaces_goes_on_from_step_to_step() -> None:
    federation = equal_clients(partial(_classifier, Remembering, 64))
    stacked, serial = (
        replies(engine, federation, BASE) for engine in (Stacked(dtype="float64"), Serial(dtype="float64"))
    )
    for (ours, _), (theirs, _) in zip(stacked, serial, strict=True):
        torch.testing.assert_close(ours.delta["head.weight"], theirs.delta["head.weight"], rtol=1e-9, atol=1e-12)


def _classifier(encoder: type[nn.Module], features: int) -> Classifier:
    return Classifier(encoder(), nn.Linear(features, 4))


ALONE = {
    "dropout": (noisy_network, BASE, "RuntimeError: vmap: called random operation"),
    "a term with a state": (
        CountingForwards,
        replace(BASE, objective=(CrossEntropy(), PullBack())),
        "'pull_back' keeps",
    ),
    "personal parts": (CountingForwards, replace(BASE, personal=("head",)), "each client keeps a part"),
    "local buffers": (CountingForwards, replace(BASE, buffers="local"), "each client keeps a part"),
    "sam": (CountingForwards, replace(BASE, optimizer=SAM()), "SAM is not known"),
}


@pytest.mark.parametrize("name", ALONE)
def test_what_cannot_be_stacked_has_the_serial_bits_and_a_reason_said_once(name: str) -> None:
    build, call, reason = ALONE[name]
    federation = equal_clients(build)
    broadcast = Broadcast(1, start_of(federation, torch.float32), seed=7)
    with Stacked()(federation) as engine:
        with pytest.warns(UserWarning, match=f"every client is trained alone.*{reason}") as said:
            first = list(engine.run(call, broadcast, range(5), {}))
        assert len(said) == 1
        states = {result.client: state for result, state in first}
        second = list(engine.run(call, broadcast, range(5), states))  # another warning would be an error
    with Serial()(federation) as engine:
        assert_same(first, list(engine.run(call, broadcast, range(5), {})), rtol=0, atol=0)
        assert_same(second, list(engine.run(call, broadcast, range(5), states)), rtol=0, atol=0)


def test_other_calls_have_the_serial_bits_and_need_no_warning() -> None:
    federation = equal_clients()
    assert_same(*(replies(engine, federation, Recalibrate()) for engine in (Stacked(), Serial())), rtol=0, atol=0)


def test_an_error_names_the_client_that_made_it() -> None:
    federation = equal_clients()
    assert isinstance(federation.clients, FederatedData)
    federation.clients.dataset.train_y[federation.clients.parts[3]] = 9  # of 4 classes
    with pytest.raises(ClientError, match="client 3 failed in round 1: IndexError"):
        replies(Stacked(), federation, BASE)


def test_a_term_that_is_wrong_is_an_error_and_not_a_warning() -> None:
    @dataclass(frozen=True)
    class Torn:
        name: ClassVar[str] = "torn"

        def __call__(self, step: Step) -> Tensor:
            raise ValueError("the tape is torn")

    with pytest.raises(ClientError, match="client 0 failed in round 1: ValueError: the tape is torn"):
        replies(Stacked(), equal_clients(), replace(BASE, objective=(CrossEntropy(), Torn())))


def test_random_numbers_and_threads_of_the_caller_are_left_alone() -> None:
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    replies(Stacked(), equal_clients(), CALLS["augmentation"])
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(Stacked, examples=0), "at least 1 example in a step, got 0"),
        (partial(Stacked, threads=0), "threads is at least 1, got 0"),
        (partial(Stacked, device="gpu"), "a device is written"),
    ],
)
def test_impossible_settings_are_refused(make: partial[Stacked], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


RECIPE = {
    "data": {"name": "digits", "train_size": 120, "test_size": 100},
    "partition": {"name": "iid"},
    "model": {"name": "mlp", "hidden": [16], "norm": "batch"},
    "client": {"batch_size": 8, "objective": {"feddecorr": {"beta": 0.1}}},
    "num_clients": 12,
    "cohort_size": 6,
    "rounds": 4,
    "engine": {"name": "stacked", "examples": 64},
}


def recipe(**changes: object) -> Experiment:
    return from_table(RECIPE | changes)


def last(experiment: Experiment, start: ServerState | None = None) -> ServerState:
    *_, (_, server) = prepare(experiment).run(start)
    return server


def test_a_recipe_names_it() -> None:
    assert recipe().engine == Stacked(examples=64)
    assert from_table(to_table(recipe())) == recipe()
    assert recipe(engine="stacked").engine == Stacked()


def test_an_experiment_comes_to_what_it_does_on_the_serial_engine() -> None:
    ours, theirs = (
        last(replace(recipe(), engine=engine)) for engine in (Stacked(dtype="float64"), Serial(dtype="float64"))
    )
    for name, leaf in (ours.model.params | ours.model.buffers).items():
        torch.testing.assert_close(leaf, (theirs.model.params | theirs.model.buffers)[name], rtol=1e-8, atol=1e-11)


def test_stopping_and_resuming_gives_the_same_bits(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, last(recipe(rounds=2)), recipe="r")
    whole, resumed = last(recipe()), last(recipe(), load_checkpoint(path, recipe="r"))
    for name, leaf in (whole.model.params | whole.model.buffers).items():
        assert torch.equal(leaf, (resumed.model.params | resumed.model.buffers)[name])


def test_measuring_local_models_changes_no_weight_and_measures_what_the_serial_engine_does() -> None:
    measured = replace(recipe(), evaluation=EvaluationSettings(local_every=1, probe_size=60))
    plain = replace(recipe(), evaluation=EvaluationSettings(local_every=0, probe_size=60))
    for name, leaf in last(measured).model.params.items():
        assert torch.equal(leaf, last(plain).model.params[name])
    ours, theirs = (
        [record for record, _ in prepare(replace(measured, engine=engine)).run()]
        for engine in (Stacked(dtype="float64"), Serial(dtype="float64"))
    )
    for mine, other in zip(ours[-1].clients, theirs[-1].clients, strict=True):
        assert mine.measurements.keys() == other.measurements.keys() != set()
        for name, leaf in mine.measurements.items():
            torch.testing.assert_close(leaf, other.measurements[name], rtol=1e-6, atol=1e-9)
