"""The same bits on a grid as in one place, and a round that can lose nodes without losing its head."""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("flwr")

from app_data import OWN_DATA
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from loopback import Fate, Loopback, faithful, on_train, silent

from decollapse.config import from_table
from decollapse.core import ClientResult
from decollapse.engines.serial import Serial
from decollapse.experiment import Experiment, Prepared, prepare
from decollapse.flower import DealtData, make_client_app
from decollapse.flower.client import client_settings
from decollapse.flower.engine import GridEngine, OnGrid
from decollapse.flower.inbox import Patience
from decollapse.flower.messages import WHO
from decollapse.flower.roster import FederationError, Roster
from decollapse.flower.server import run_federation
from decollapse.flower.tensors import decode, encode
from decollapse.runs import RunFolder, continue_run

DEALT = """
data = { name = "digits", train_size = 300, test_size = 100 }
rounds = 3
cohort_size = 2
engine = "serial"
model = { name = "small_cnn", channels = [4, 8], features = 16, norm = "batch" }
[client]
batch_size = 16
[client.objective.moon]
[client.objective.feddecorr]
[evaluation]
local_every = 2
federated_every = 2
"""
OWN = """
rounds = 2
engine = "serial"
model = { name = "imported", factory = "members:noisy_network" }
[client]
batch_size = 8
buffers = "recalibrate"
[client.objective.moon]
[evaluation]
local_every = 1
federated_every = 1
"""


UNLIKE = ("seconds", "parts", "traffic")
"""What a record of a federation has in other numbers than that of a simulation, or alone."""
RECIPES = {"dealt": (DEALT, DealtData()), "own": (OWN, OWN_DATA)}


def on_grid(
    out: Path,
    fates: Sequence[Fate] = (faithful,) * 3,
    *,
    name: str = "own",
    grid: Loopback | None = None,
    **config: Any,
) -> RunFolder:
    recipe, data = RECIPES[name]
    grid = grid or Loopback(make_client_app(data), list(fates))
    settings = {"out": str(out), "deadline": 0.3, "retries": 1, "wait": 0.3} | config
    return run_federation(grid, recipe, data, settings)


def in_one_place(out: Path, name: str = "own") -> RunFolder:
    recipe, data = RECIPES[name]
    experiment = from_table(tomllib.loads(recipe) | {"num_clients": 3})
    folder = RunFolder.create(out, experiment)
    for _ in continue_run(folder, prepared=data.at_server(experiment)):
        pass
    return folder


def records(folder: RunFolder) -> list[dict[str, Any]]:
    def without_times(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without_times(entry) for key, entry in value.items() if key not in UNLIKE}
        return [without_times(entry) for entry in value] if isinstance(value, list) else value

    lines = (folder.path / "records.jsonl").read_text().splitlines()
    return [without_times(json.loads(line)) for line in lines]


def assert_same_run(one: RunFolder, other: RunFolder) -> None:
    ours, theirs = one.load(), other.load()
    assert ours is not None
    assert theirs is not None
    assert ours.round == theirs.round
    assert ours.clients.keys() == theirs.clients.keys()
    trees = [(ours.model.params, theirs.model.params), (ours.model.buffers, theirs.model.buffers)]
    trees += [
        (kept, theirs.clients[client][term]) for client, state in ours.clients.items() for term, kept in state.items()
    ]
    for mine, yours in trees:
        assert mine.keys() == yours.keys()
        for name, leaf in mine.items():
            assert torch.equal(leaf, yours[name]), name
    assert records(one) == records(other)
    assert sorted(path.name for path in one.path.rglob("*.npz")) == sorted(p.name for p in other.path.rglob("*.npz"))


@pytest.mark.parametrize("name", RECIPES)
def test_weights_states_records_and_spectra_are_those_of_the_serial_engine(name: str, tmp_path: Path) -> None:
    folder = on_grid(tmp_path / "grid", name=name)
    assert_same_run(folder, in_one_place(tmp_path / "serial", name))
    state = folder.load()
    assert state is not None
    assert state.clients
    assert records(folder)[2]["federated"]["spectrum"]
    assert records(folder)[2]["diagnosis"]


def test_the_server_never_asks_for_a_clients_examples(tmp_path: Path) -> None:
    def refuse(client: int, num_clients: int) -> tuple[torch.Tensor, torch.Tensor]:
        raise AssertionError("the server looked")

    grid = Loopback(make_client_app(OWN_DATA), [faithful] * 3)
    settings = {"out": str(tmp_path / "run"), "wait": 1}
    folder = run_federation(grid, OWN, replace(OWN_DATA, client=refuse), settings)
    assert folder.rounds_done == 2
    assert RunFolder.open(folder.path).description["partition"]["class_counts"] is None


BARE = "rounds=1 client.objective={} evaluation.local_every=0 evaluation.federated_every=0 model.features=8192"
"""One round of nothing but a model, large beside the names of its tensors."""


def traffic(folder: RunFolder) -> list[dict[str, int] | None]:
    return [json.loads(line)["traffic"] for line in (folder.path / "records.jsonl").read_text().splitlines()]


def test_a_round_records_the_bytes_of_its_messages(tmp_path: Path) -> None:
    def num_bytes(message: Message) -> int:
        arrays = [record for record in message.content.values() if isinstance(record, ArrayRecord)]
        return sum(len(name.encode()) + len(array.data) for record in arrays for name, array in record.items())

    grid = Loopback(make_client_app(DealtData()), [faithful] * 3)
    folder = on_grid(tmp_path / "grid", name="dealt", grid=grid, set=f"cohort_size=3 {BARE}")
    before, first = traffic(folder)
    assert before is None
    assert first is not None
    answers = [reply for reply in grid.replies if WHO not in reply.content]
    arrays = sum(map(num_bytes, answers))
    texts = sum(len(reply.content["about"]["json"]) for reply in answers if "about" in reply.content)
    assert first["from_clients"] == arrays + texts
    state = folder.load()
    assert state is not None
    model = sum(leaf.nbytes for leaf in (state.model.params | state.model.buffers).values())
    assert 3 * model < first["to_clients"] < 1.05 * 3 * model
    assert 3 * model < first["from_clients"] < 1.05 * 3 * model
    assert traffic(in_one_place(tmp_path / "serial", "dealt")) == [None] * 4


def test_updates_in_float16_take_half_the_bytes(tmp_path: Path) -> None:
    sizes = [
        traffic(on_grid(tmp_path / setting, name="dealt", set=f"{BARE} {setting}"))[1]
        for setting in ("float16_updates=false", "float16_updates=true")
    ]
    assert sizes[0] is not None
    assert sizes[1] is not None
    assert sizes[1]["to_clients"] == pytest.approx(sizes[0]["to_clients"], rel=0.01)
    assert sizes[1]["from_clients"] < 0.6 * sizes[0]["from_clients"]


def test_settings_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="patience is no setting of a federation; there is out, set, deadline"):
        on_grid(tmp_path / "run", patience=3)
    with pytest.raises(ValueError, match="num_clients = 4, the nodes have num-partitions=3"):
        on_grid(tmp_path / "run", set="num_clients=4")
    assert not (tmp_path / "run").exists()


def test_a_run_on_own_data_cannot_go_on_without_the_federation(tmp_path: Path) -> None:
    folder = on_grid(tmp_path / "run")
    with pytest.raises(ValueError, match="with the clients of its federation; go on with `flwr run`"):
        prepare(RunFolder.open(folder.path).experiment)


def test_a_node_that_failed_once_is_asked_again_and_the_bits_are_the_same(tmp_path: Path) -> None:
    failures = iter([Error(8, "ClientApp crashed")])

    def once(message: Message, handle: Any) -> Message:
        error = next(failures, None)
        return handle(message) if error is None else Message(error, reply_to=message)

    folder = on_grid(tmp_path / "grid", [faithful, on_train(once), faithful])
    assert_same_run(folder, in_one_place(tmp_path / "serial"))


def test_a_late_answer_counts_in_the_next_attempt(tmp_path: Path) -> None:
    looks = iter(range(60))  # more than fit into one deadline

    def late(message: Message, handle: Any) -> Message | None:
        return handle(message) if next(looks, None) is None else None

    folder = on_grid(tmp_path / "grid", [faithful, faithful, on_train(late)], retries=9)
    assert_same_run(folder, in_one_place(tmp_path / "serial"))


def test_only_those_who_did_not_answer_are_asked_again(tmp_path: Path) -> None:
    grid = Loopback(make_client_app(OWN_DATA), [faithful, silent, faithful])
    with pytest.raises(FederationError):
        on_grid(tmp_path, grid=grid, retries=2)
    assert sorted(grid.trained) == [0, 2]


def test_a_node_that_comes_back_under_another_id_finds_its_place(tmp_path: Path) -> None:
    grid = Loopback(make_client_app(OWN_DATA), [faithful] * 3)

    def replaced(message: Message, handle: Any) -> Message | None:
        grid.node_ids[1] = 1234  # what was sent to 93 is never answered
        grid.fates[1] = faithful
        return None

    grid.fates[1] = on_train(replaced)
    assert_same_run(on_grid(tmp_path / "grid", grid=grid), in_one_place(tmp_path / "serial"))


@dataclass
class Restarting(Loopback):
    """A grid that knows since when its nodes are there."""

    since: dict[int, str] = field(default_factory=dict)

    def get_nodes(self) -> list[NodeInfo]:
        return [NodeInfo(node_id=node, last_activated_at=self.since.get(node, "")) for node in self.node_ids]


def test_a_node_that_was_restarted_under_its_own_id_is_asked_again_at_once(tmp_path: Path) -> None:
    forgotten: list[str] = []

    def restart(message: Message, handle: Any) -> Message | None:
        forgotten[:] = forgotten or [message.metadata.message_id]
        grid.since[93] = "later"
        return None if message.metadata.message_id in forgotten else handle(message)

    grid = Restarting(make_client_app(OWN_DATA), [faithful, on_train(restart), faithful])
    began = time.monotonic()
    folder = on_grid(tmp_path / "grid", grid=grid, deadline=300)
    assert time.monotonic() - began < 100
    assert_same_run(folder, in_one_place(tmp_path / "serial"))


def test_a_dead_node_is_named_in_the_record_and_the_round_goes_on_where_that_is_allowed(tmp_path: Path) -> None:
    folder = on_grid(tmp_path / "run", [faithful, silent, faithful], retries=0, **{"min-results": 2})
    for record in records(folder)[1:]:
        assert record["cohort"] == [0, 1, 2]
        assert [client["client"] for client in record["clients"]] == [0, 2]
        assert record["rejected"] == [{"client": 1, "reason": "node 93 did not answer in time"}]
        assert record["federated"]["num_clients"] == 2


def test_too_few_answers_end_the_run_in_one_sentence_and_going_on_gives_the_same_bits(tmp_path: Path) -> None:
    answers = iter(range(4))  # of round 1: training, recalibration, spectrum; then one of round 2's

    def dies(message: Message, handle: Any) -> Message | None:
        return None if next(answers, None) is None else handle(message)

    with pytest.raises(FederationError) as caught:
        on_grid(tmp_path / "grid", [faithful, faithful, on_train(dies)], retries=0)
    said = str(caught.value)
    assert said.startswith("round 2 has 2 of 3 results, and needs 3: client 2: node 86 did not answer in time.")
    assert "run again to go on" in said
    assert RunFolder.open(tmp_path / "grid").rounds_done == 1
    assert_same_run(on_grid(tmp_path / "grid"), in_one_place(tmp_path / "serial"))


def test_all_clients_failing_is_an_error_whatever_the_minimum(tmp_path: Path) -> None:
    with pytest.raises(FederationError, match="0 of 3 results.*client 0.*client 1.*client 2"):
        on_grid(tmp_path, [silent] * 3, retries=0, **{"min-results": 1})


def test_an_exception_in_the_client_app_is_told_with_its_client(tmp_path: Path) -> None:
    def broken(client: int, num_clients: int) -> tuple[torch.Tensor, torch.Tensor]:
        raise FileNotFoundError("no such file: scans.npz")

    grid = Loopback(make_client_app(replace(OWN_DATA, client=broken)), [faithful] * 3)
    with pytest.raises(FederationError, match="client 0: FileNotFoundError: no such file: scans.npz; client 1"):
        on_grid(tmp_path, grid=grid, retries=0)


def spoiled(change: Any) -> Fate:
    """A node whose true answer is changed on its way."""

    def answer(message: Message, handle: Any) -> Message:
        reply = handle(message)
        change(reply.content)
        return reply

    return on_train(answer)


def nan(content: RecordDict) -> None:
    content["delta"] = encode({name: leaf * torch.nan for name, leaf in decode(content["delta"]).items()})


def longer(content: RecordDict) -> None:
    content["delta"] = encode({name: torch.zeros(3, 3, 3) for name in content["delta"]})


def double(content: RecordDict) -> None:
    content["delta"] = encode({name: leaf.double() for name, leaf in decode(content["delta"]).items()})


def garbage(content: RecordDict) -> None:
    content["delta"] = ArrayRecord(
        {name: Array("float32", (1,), "numpy.ndarray", b"\x00junk") for name in content["delta"]}
    )


def empty(content: RecordDict) -> None:
    for name in list(content):
        del content[name]


def flat_features(content: RecordDict) -> None:
    extras = decode(content["extras"])
    content["extras"] = encode(extras | {"measured/features": extras["measured/features"].flatten()})


def no_spectrum(content: RecordDict) -> None:
    extras = decode(content["extras"])
    content["extras"] = encode({name: leaf for name, leaf in extras.items() if name != "measured/covariance"})


def somebody_else(content: RecordDict) -> None:
    about = json.loads(content["about"]["json"])
    content["about"] = ConfigRecord({"json": json.dumps(about | {"client": 0})})


def test_measurements_of_another_model_are_left_out_of_the_diagnosis_with_a_warning(tmp_path: Path) -> None:
    def narrow(content: RecordDict) -> None:
        extras = decode(content["extras"])
        for name in ("features", "covariance", "correlation"):
            extras[f"measured/{name}"] = extras[f"measured/{name}"][..., :3].contiguous()
        content["extras"] = encode(extras)

    with pytest.warns(UserWarning, match=r"client 2 is left out of the diagnosis: 'measured/features' has shape"):
        folder = on_grid(
            *(tmp_path, [faithful, faithful, spoiled(narrow)]),
            name="dealt",
            set="cohort_size=3 rounds=1 evaluation.local_every=1 evaluation.federated_every=0",
        )
    (_, record) = records(folder)
    assert record["rejected"] == []
    assert record["diagnosis"]["clients"] == [0, 1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (nan, "NaN or infinite"),
        (longer, "shape (3, 3, 3)"),
        (double, "torch.float64"),
        (garbage, "no array"),
        (empty, "no record 'about'"),
        (somebody_else, "client 0"),
        (flat_features, "'measured/features' has shape"),
        (no_spectrum, "the measurements lack 'measured/covariance'"),
    ],
)
def test_an_answer_that_is_none_is_a_named_rejection(change: Any, reason: str, tmp_path: Path) -> None:
    fates = [faithful, faithful, spoiled(change)]
    folder = on_grid(
        *(tmp_path, fates),
        name="dealt",
        set="cohort_size=3 evaluation.local_every=1 evaluation.federated_every=0",
        **{"min-results": 2},
    )
    for record in records(folder)[1:]:
        (rejection,) = record["rejected"]
        assert rejection["client"] == 2
        assert reason in rejection["reason"]
    state = folder.load()
    assert state is not None
    assert all(leaf.isfinite().all() for leaf in state.model.params.values())


def test_a_call_that_cannot_be_sent_is_one_clear_error() -> None:
    prepared: Prepared = OWN_DATA.at_server(Experiment(num_clients=1))
    grid = Loopback(make_client_app(OWN_DATA), [faithful])
    settings = OnGrid(Roster(grid), {}, Serial())

    def call(*_: Any) -> tuple[ClientResult, dict[str, Any]]:
        raise NotImplementedError

    engine = GridEngine(settings, None, 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot be sent to the clients"):
        list(engine.run(call, None, [0], {}))  # type: ignore[arg-type]
    assert prepared.clients.class_counts() is None


def test_clients_compute_with_the_recipes_threads_device_and_dtype() -> None:
    experiment = from_table({"engine": {"name": "process", "dtype": "float64", "workers": 5, "channels_last": False}})
    assert client_settings(experiment.engine) == Serial(dtype="float64", channels_last=False, threads=1)


@pytest.mark.parametrize("setting", [{"deadline": 0}, {"wait": -1}, {"retries": -1}, {"min_results": -1}])
def test_patience_has_limits(setting: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="deadline is positive"):
        Patience(**setting)
