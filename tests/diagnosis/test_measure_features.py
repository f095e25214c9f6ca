from __future__ import annotations

import pickle
import re

import pytest
import torch
from members import initial_model, noisy_network, one_client, small_federation
from torch import Tensor, nn

from decollapse.algorithms import fedavg
from decollapse.core import MEASURED, Broadcast, ClientData, ModelState, Output
from decollapse.diagnosis import measure_features
from decollapse.diagnosis.measure_features import ORIGIN, MeasureFeatures, statistics_of
from decollapse.diagnosis.sketch import Sketch
from decollapse.engines.serial import Serial
from decollapse.feature_statistics import FeatureStatistics
from decollapse.server_state import ServerState
from decollapse.simulation import run_round
from decollapse.tree import Tree, under


class Shifted(nn.Module):
    """Features are the input plus a weight, which is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Output:
        return Output(logits=x, features=x + self.shift)


def client(x: list[list[float]] | Tensor, y: list[int] | None = None, *, num_classes: int = 3) -> ClientData:
    x = torch.as_tensor(x, dtype=torch.float64)
    labels = torch.zeros(len(x), dtype=torch.int64) if y is None else torch.tensor(y)
    return ClientData(7, x, labels, num_classes, preprocess=lambda x: x)


def measured(data: ClientData, call: MeasureFeatures = MeasureFeatures(), *, origin: Tensor | None = None) -> Tree:
    model = Shifted()
    extras = {} if origin is None else {ORIGIN: origin}
    result, _ = call(model, data, Broadcast(0, ModelState.of(model), 0, extras), {})
    return under(result.extras, MEASURED)


def as_lists(sums: Tree) -> dict[str, list[float]]:
    return {name: leaf.tolist() for name, leaf in sums.items()}


# What is sent


def test_the_sums_by_hand_are_counts_and_moments_about_zero_and_of_the_gram_matrix_only_one_half():
    sums = measured(client([[1.0, 2.0, 0.0], [3.0, -1.0, 5.0]]))
    assert as_lists(sums) == {"count": [2], "sum": [[4, 1, 5]], "gram": [10, -1, 15, 5, -5, 25]}
    assert {leaf.dtype for leaf in sums.values()} == {torch.float64}


def test_the_sums_are_counted_from_the_origin_that_was_sent():
    sums = measured(client([[1.0, 2.0], [3.0, 2.0]]), origin=torch.tensor([1.0, 0.0]))
    assert as_lists(sums) == {"count": [2], "sum": [[2, 4]], "gram": [4, 4, 8]}


def test_the_classes_are_counted_apart_if_asked():
    sums = measured(client([[1.0, 2.0], [3.0, 0.0], [5.0, 0.0]], [2, 0, 2]), MeasureFeatures(per_class=True))
    assert as_lists(sums) == {"count": [1, 0, 2], "sum": [[3, 0], [0, 0], [6, 2]], "gram": [35, 2, 4]}


def test_a_sketch_by_hand_is_the_products_with_the_test_matrix():
    call = MeasureFeatures(sketch=Sketch(size=1, seed=3))
    a, b = call.sketch.test_matrix(2)[:, 0].tolist()
    sums = measured(client([[1.0, 2.0], [3.0, 0.0]]), call)
    assert as_lists(sums)["squares"] == [10, 4]
    assert sums["product"][:, 0].tolist() == pytest.approx([10 * a + 2 * b, 2 * a + 4 * b])
    assert sums.keys() == {"count", "sum", "squares", "product"}


@pytest.mark.parametrize(
    "call", [MeasureFeatures(), MeasureFeatures(sketch=Sketch(2)), MeasureFeatures(per_class=True)]
)
def test_the_result_is_a_measurement_and_nothing_else(call: MeasureFeatures):
    model, state = noisy_network(), {"term": {"w": torch.ones(1)}}
    result, after = call(model, one_client(), Broadcast(3, initial_model(), 0), state)
    assert (result.client, result.num_examples, result.num_steps) == (0, 20, 0)
    assert result.delta == result.buffers == result.metrics == {}
    assert all(name.startswith(MEASURED) for name in result.extras)
    assert result.seconds == 0.0
    assert after is state


def test_the_sizes_in_the_documentation_are_those_of_the_messages():
    rows = re.findall(
        r"\| (\d+), (\d+) \| ([\d,]+) bytes \| ([\d,]+) bytes \| k = (\d+) \|", measure_features.__doc__ or ""
    )
    assert len(rows) == 4
    for num_classes, width, *said, size in rows:
        data = client(torch.ones(1, int(width)), num_classes=int(num_classes))
        for claim, sketch in zip(said, (None, Sketch(int(size))), strict=True):
            sums = measured(data, MeasureFeatures(per_class=int(num_classes) > 1, sketch=sketch))
            assert sum(leaf.nbytes for leaf in sums.values()) == int(claim.replace(",", ""))


def test_a_client_of_one_example_sends_its_features_as_they_are():
    assert as_lists(measured(client([[1.5, -2.0]])))["sum"] == [[1.5, -2.0]]


def test_the_statistics_of_the_message_are_those_of_the_features():
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels, origin = (torch.arange(40) % 3).tolist(), torch.full((5,), 0.25)
    found = statistics_of(measured(client(x, labels), MeasureFeatures(per_class=True), origin=origin), origin=origin)
    expected = FeatureStatistics.of(x, torch.tensor(labels), num_classes=3)
    assert torch.equal(found.counts, expected.counts)
    torch.testing.assert_close(found.means, expected.means)
    torch.testing.assert_close(found.within, expected.within)


def test_a_sketch_has_no_statistics():
    with pytest.raises(ValueError, match="a sketch has no d x d statistics"):
        statistics_of(measured(client([[1.0, 2.0]]), MeasureFeatures(sketch=Sketch(1))))


# Small clients


@pytest.mark.parametrize("sketch", [None, Sketch(2)])
def test_a_client_with_fewer_examples_than_the_minimum_sends_zeros_of_the_usual_shape(sketch: Sketch | None):
    data = client([[1.0, 2.0], [3.0, 0.0]])
    kept, held_back = (measured(data, MeasureFeatures(sketch=sketch, min_examples=least)) for least in (2, 3))
    assert {name: leaf.shape for name, leaf in held_back.items()} == {name: leaf.shape for name, leaf in kept.items()}
    assert kept["count"].tolist() == [2]
    assert all(not leaf.any() for leaf in held_back.values())


def test_a_client_below_the_minimum_does_not_tell_its_number_of_examples():
    model = Shifted()
    result, _ = MeasureFeatures(min_examples=3)(
        model, client([[1.0], [2.0]]), Broadcast(0, ModelState.of(model), 0), {}
    )
    assert result.num_examples == 0


def test_with_classes_apart_each_small_class_is_left_out():
    x, y = [[1.0, 2.0], [3.0, 0.0], [5.0, 0.0]], [2, 0, 2]
    sums = measured(client(x, y), MeasureFeatures(per_class=True, min_examples=2))
    assert as_lists(sums) == {"count": [0, 0, 2], "sum": [[0, 0], [0, 0], [6, 2]], "gram": [26, 2, 4]}


# The model


@pytest.mark.parametrize("sketch", [None, Sketch(5)])
def test_the_broadcast_model_is_measured_in_eval_mode_and_its_batchnorm_left_as_it_came(sketch: Sketch | None):
    model, data, sent = noisy_network(), one_client(), initial_model()
    result, _ = MeasureFeatures(sketch=sketch)(model, data, Broadcast(1, sent, 0), {})
    after = ModelState.of(model)
    for came, left in ((sent.params, after.params), (sent.buffers, after.buffers)):
        assert all(torch.equal(came[name], left[name]) for name in came)
    reference = noisy_network()
    sent.load_into(reference)
    with torch.no_grad():
        features = reference.eval()(data.preprocess(data.x)).features
    torch.testing.assert_close(result.extras[MEASURED + "sum"], features.double().sum(0)[None], rtol=1e-6, atol=1e-6)


def test_a_round_after_a_measurement_gives_the_bits_of_a_round_without_one():
    federation, algorithm = small_federation(), fedavg()
    models = []
    for measures in (False, True):
        with Serial()(federation) as engine:
            server = ServerState.initial(initial_model(), algorithm, num_clients=5)
            if measures:
                list(engine.run(MeasureFeatures(), server.broadcast(algorithm, seed=0), range(5), {}))
            models.append(run_round(algorithm, server, engine, range(5), seed=0)[0].model)
    assert all(torch.equal(models[0].params[name], leaf) for name, leaf in models[1].params.items())
    assert all(torch.equal(models[0].buffers[name], leaf) for name, leaf in models[1].buffers.items())


@pytest.mark.parametrize("sketch", [None, Sketch(2)])
def test_the_size_of_the_batches_makes_no_difference(sketch: Sketch | None):
    data = client(torch.randn(11, 3, generator=torch.Generator().manual_seed(0)), [0, 1, 2, 2, 1, 0, 1, 1, 0, 2, 2])
    whole, one_by_one = (
        measured(data, MeasureFeatures(per_class=True, sketch=sketch, batch_size=size)) for size in (500, 1)
    )
    for name, leaf in whole.items():
        torch.testing.assert_close(one_by_one[name], leaf, rtol=1e-13, atol=1e-13)


def test_the_call_is_a_value_that_pickles():
    call = MeasureFeatures(per_class=True, sketch=Sketch(3), min_examples=2)
    assert pickle.loads(pickle.dumps(call)) == call


# Bad input


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_name_the_client_and_how_many(value: float):
    with pytest.raises(ValueError, match="client 7: features must be finite, got NaN or infinity in 2 of 3 examples"):
        measured(client([[1.0, 2.0], [value, 2.0], [1.0, value]]))


@pytest.mark.parametrize("shape", [(3, 2, 4, 4), (3,)])
def test_features_that_are_no_vectors_name_the_client_and_the_shape(shape: tuple[int, ...]):
    message = (
        rf"client 7: features must be \(n, d\), got shape {re.escape(str((1, *shape[1:])))} .* pool maps with z.mean"
    )
    with pytest.raises(ValueError, match=message.replace(r"\(1\)", r"\(1,\)")):
        measured(client(torch.ones(shape)))


def test_a_model_without_features_is_named():
    model = nn.Linear(2, 2).double()
    with pytest.raises(TypeError, match=r"must return decollapse.core.Output\(logits, features\), got Tensor"):
        MeasureFeatures()(model, client([[1.0, 2.0]]), Broadcast(0, ModelState.of(model), 0), {})


def test_a_client_without_examples_is_named():
    with pytest.raises(ValueError, match="client 7 has no examples; ask clients with at least one"):
        measured(client(torch.ones(0, 2)))


def test_an_origin_of_another_width_is_refused():
    with pytest.raises(ValueError, match=r"origin must have shape \(2,\), as the features have, got \(3,\)"):
        measured(client([[1.0, 2.0]]), origin=torch.zeros(3))


def test_a_sketch_wider_than_the_features_is_refused():
    with pytest.raises(ValueError, match="size 3 is wider than the 2 features"):
        measured(client([[1.0, 2.0]]), MeasureFeatures(sketch=Sketch(3)))


@pytest.mark.parametrize("arguments", [{"min_examples": 0}, {"batch_size": 0}])
def test_numbers_below_one_are_refused(arguments: dict[str, int]):
    with pytest.raises(ValueError, match="min_examples and batch_size are at least 1, got"):
        MeasureFeatures(**arguments)
