"""Under secure aggregation a federation ends where it would have ended in the open, and no update is sent."""

from __future__ import annotations

import json
import shutil
import stat
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr")

from app_data import OWN_DATA
from flwr.app import Message
from loopback import Fate, Loopback, faithful, on_train

from decollapse.config import from_table
from decollapse.core import Broadcast, ModelState
from decollapse.flower import make_client_app
from decollapse.flower.client import run_task
from decollapse.flower.messages import Task
from decollapse.flower.server import run_federation
from decollapse.flower.sum_messages import INPUT, KEYS, SHARES, UNMASKING
from decollapse.runs import RunFolder, continue_run
from decollapse.secure import SecureSumError, participant
from decollapse.secure.encoding import Words

STATELESS = """
rounds = 2
engine = { name = "serial", dtype = "float64" }
model = { name = "imported", factory = "members:noisy_network" }
[client]
batch_size = 8
[evaluation]
local_every = 0
"""
STATEFUL = """
rounds = 3
engine = { name = "serial", dtype = "float64" }
model = { name = "imported", factory = "members:noisy_network" }
[client]
batch_size = 8
buffers = "recalibrate"
[client.objective.moon]
[evaluation]
federated_every = 2
"""
CLIENTS = 4
NODES = {client: 100 - 7 * client for client in range(CLIENTS)}


def federation(home: Path, fates: list[Fate] | None = None) -> Loopback:
    app = make_client_app(OWN_DATA)
    return Loopback(app, fates or [faithful] * CLIENTS, node_config={"state-dir": str(home / "kept")})


def train(grid: Loopback, out: Path, recipe: str = STATELESS, *, secure: bool = True, **config: Any) -> RunFolder:
    settings = {"out": str(out), "deadline": 0.3, "retries": 0, "wait": 0.3} | config
    return run_federation(grid, f"secure_aggregation = {str(secure).lower()}\n{recipe}", OWN_DATA, settings)


def in_one_place(out: Path, recipe: str) -> RunFolder:
    experiment = from_table(tomllib.loads(recipe) | {"num_clients": CLIENTS})
    folder = RunFolder.create(out, experiment)
    for _ in continue_run(folder, prepared=OWN_DATA.at_server(experiment)):
        pass
    return folder


def records(folder: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder.path / "records.jsonl").read_text().splitlines()]


def assert_same_weights(one: RunFolder, other: RunFolder) -> None:
    ours, theirs = one.load(), other.load()
    assert ours is not None
    assert theirs is not None
    assert ours.round == theirs.round
    mine, yours = ours.model.params | ours.model.buffers, theirs.model.params | theirs.model.buffers
    assert mine.keys() == yours.keys()
    differences = {name: float((leaf.double() - yours[name].double()).abs().max()) for name, leaf in mine.items()}
    assert max(differences.values()) < 1e-13, differences


def gone(phase: str, times: range = range(1000)) -> Fate:
    """A node that does not answer a phase, in these of its sums."""
    seen: list[str] = []

    def answer(message: Message, handle: Any) -> Message | None:
        number = message.metadata.message_id
        if phase_of(message) != phase:
            return handle(message)
        seen.extend([number] if number not in seen else [])
        return None if seen.index(number) in times else handle(message)

    return on_train(answer)


def phase_of(message: Message) -> str:
    return str(json.loads(message.content["sum"]["json"])["phase"])


def absent(rounds: range) -> Fate:
    """A node of a federation in the open that does not train in these rounds."""

    def answer(message: Message, handle: Any) -> Message | None:
        return None if json.loads(message.content["about"]["json"])["round"] in rounds else handle(message)

    return on_train(answer)


def of_client_3(fate: Fate) -> list[Fate]:
    return [faithful] * 3 + [fate]


def leaves(value: Any) -> list[float]:
    """The numbers of a part of a record, in order."""
    if isinstance(value, dict | list):
        entries = value.values() if isinstance(value, dict) else value
        return [number for entry in entries for number in leaves(entry)]
    return [float(value)] if isinstance(value, int | float) else []


def rejections(folder: RunFolder) -> list[list[str]]:
    return [[f"{each['client']}: {each['reason']}" for each in record["rejected"]] for record in records(folder)[1:]]


@pytest.fixture
def phases(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The phases that clients were asked for, in order."""
    asked: list[str] = []
    push = Loopback.push_messages

    def noting(self: Loopback, messages: list[Message]) -> Any:
        asked.extend(phase_of(message) for message in messages if "sum" in message.content)
        return push(self, messages)

    monkeypatch.setattr(Loopback, "push_messages", noting)
    return asked


@pytest.mark.parametrize("recipe", [STATELESS, STATEFUL], ids=["stateless", "stateful"])
def test_it_ends_with_the_weights_and_spectra_of_the_plain_run(recipe: str, tmp_path: Path) -> None:
    ours = train(federation(tmp_path), tmp_path / "secure", recipe)
    plain = in_one_place(tmp_path / "plain", recipe)
    assert_same_weights(ours, plain)
    for mine, yours in zip(records(ours), records(plain), strict=True):
        assert mine["evaluation"]["accuracy"] == yours["evaluation"]["accuracy"]
        assert (mine["federated"] is None) == (yours["federated"] is None)
        if mine["federated"]:
            assert leaves(mine["federated"]["spectrum"]) == pytest.approx(
                leaves(yours["federated"]["spectrum"]), rel=1e-9
            )
    state = ours.load()
    assert state is not None
    assert not state.clients  # these stay where they are
    assert [client["client"] for record in records(ours)[1:] for client in record["clients"]] == [-1] * state.round


def test_keys_are_exchanged_once_for_all_that_a_run_asks(tmp_path: Path, phases: list[str]) -> None:
    train(federation(tmp_path), tmp_path / "run", STATEFUL)
    sums = 3 + 3 + 2  # training and recalibration in 3 rounds, spectra in rounds 2 and 3
    each = [KEYS, SHARES, *sums * [INPUT, UNMASKING]]
    assert phases == [phase for phase in each for _ in range(CLIENTS)]


def test_a_sampled_cohort_exchanges_keys_in_every_round(tmp_path: Path, phases: list[str]) -> None:
    changes = "cohort_size=3"
    ours = train(federation(tmp_path), tmp_path / "secure", set=changes)
    plain = train(federation(tmp_path), tmp_path / "plain", secure=False, set=changes)
    assert_same_weights(ours, plain)
    assert phases.count(KEYS) == 2 * 3


@pytest.mark.parametrize(
    ("phase", "sums", "rounds", "said"),
    [
        (KEYS, range(9), range(1, 3), [["did not answer in time"], ["not there when keys were exchanged"]]),
        (SHARES, range(9), range(1, 3), [["did not answer in time"], ["not there when keys were exchanged"]]),
        (INPUT, range(1, 2), range(2, 3), [[], ["node 79 did not answer in time"]]),
        (UNMASKING, range(1), range(0), [[], []]),
    ],
    ids=[KEYS, SHARES, INPUT, UNMASKING],
)
def test_a_node_that_drops_out_in_a_phase_is_left_out_where_its_input_is_missing(
    phase: str, sums: range, rounds: range, said: list[list[str]], tmp_path: Path
) -> None:
    ours = train(federation(tmp_path, of_client_3(gone(phase, sums))), tmp_path / "secure")
    grid = federation(tmp_path, of_client_3(absent(rounds)))
    assert_same_weights(ours, train(grid, tmp_path / "plain", secure=False, **{"min-results": 3}))
    for found, expected in zip(rejections(ours), said, strict=True):
        assert len(found) == len(expected)
        assert all(each.startswith("3: ") and part in each for each, part in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("phase", "said"),
    [
        (KEYS, "sent keys"),
        (SHARES, "sent shares of their keys"),
        (INPUT, "sent their input"),
        (UNMASKING, "helped to unmask"),
    ],
)
def test_below_the_threshold_a_run_ends_in_one_sentence_that_names_nodes(phase: str, said: str, tmp_path: Path) -> None:
    grid = federation(tmp_path, [faithful, gone(phase), faithful, gone(phase)])
    with pytest.raises(SecureSumError) as caught:
        train(grid, tmp_path / "run")
    assert f"round 1: 2 of 4 clients {said}, and the sum needs 3; nothing was unmasked." in str(caught.value)
    for client in (1, 3):
        assert f"Client {client}: node {NODES[client]} did not answer in time." in str(caught.value)


def test_min_results_is_the_threshold(tmp_path: Path) -> None:
    grid = federation(tmp_path, of_client_3(gone(INPUT)))
    with pytest.raises(SecureSumError, match="3 of 4 clients sent their input, and the sum needs 4"):
        train(grid, tmp_path / "run", **{"min-results": 4})
    with pytest.raises(ValueError, match="min-results is the threshold, and .* more than half of 4 clients.* got 2"):
        train(federation(tmp_path), tmp_path / "half", **{"min-results": 2})
    assert not (tmp_path / "half").exists()


def test_a_node_that_lost_its_answer_is_asked_again_and_gives_the_same(tmp_path: Path) -> None:
    lost: list[str] = []

    def loses(message: Message, handle: Any) -> Message | None:
        reply = handle(message)
        if phase_of(message) in lost:
            return reply
        lost.append(phase_of(message))
        return None

    ours = train(federation(tmp_path, of_client_3(on_train(loses))), tmp_path / "secure", STATEFUL, retries=2)
    assert lost == [KEYS, SHARES, INPUT, UNMASKING]
    assert rejections(ours) == [[], [], []]
    assert_same_weights(ours, in_one_place(tmp_path / "plain", STATEFUL))


def test_a_client_that_lost_its_memory_is_out_until_keys_are_exchanged_anew(tmp_path: Path) -> None:
    def forgets(message: Message, handle: Any) -> Message | None:
        if phase_of(message) == INPUT:
            for file in (tmp_path / "kept").rglob("client-3.safetensors"):
                file.unlink()
        return handle(message)

    found = rejections(train(federation(tmp_path, of_client_3(on_train(forgets))), tmp_path / "run"))
    assert all(len(each) == 1 and "3: this client has no secret of the run" in each[0] for each in found)
    shutil.rmtree(tmp_path / "kept")  # and a new run finds all it needs
    assert rejections(train(federation(tmp_path), tmp_path / "again")) == [[], []]


def test_a_run_goes_on_with_new_keys(tmp_path: Path) -> None:
    fates = [faithful, gone(INPUT, range(1, 2)), faithful, gone(INPUT, range(1, 2))]  # in round 2
    with pytest.raises(SecureSumError, match="round 2: 2 of 4 clients"):
        train(federation(tmp_path, fates), tmp_path / "run")
    assert RunFolder.open(tmp_path / "run").rounds_done == 1
    ours = train(federation(tmp_path), tmp_path / "run")
    assert_same_weights(ours, in_one_place(tmp_path / "plain", STATELESS))
    assert len(list((tmp_path / "kept").glob("secure-*"))) == 2


def test_what_a_client_remembers_is_its_users_alone(tmp_path: Path) -> None:
    train(federation(tmp_path), tmp_path / "run")
    (folder,) = (tmp_path / "kept").iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = sorted(folder.glob("*.safetensors"))
    assert [file.name for file in files] == [f"client-{client}.safetensors" for client in range(CLIENTS)]
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)


def test_nothing_that_is_sent_holds_a_clients_own_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs: list[Words] = []
    real = participant.mask

    def noting(secrets: Any, session: Any, everyone: Any, sharers: Any, words: Words, layout: Any) -> Any:
        inputs.append(words.copy())
        return real(secrets, session, everyone, sharers, words, layout)

    monkeypatch.setattr(participant, "mask", noting)
    grid = federation(tmp_path)
    train(grid, tmp_path / "run", STATEFUL)
    replies = [reply.content for reply in grid.replies if "who" not in reply.content]
    assert {name for content in replies for name in content} == {"sum", "words"}
    masked = [
        next(iter(content["words"].values())).numpy().view(np.uint64) for content in replies if "words" in content
    ]
    assert len(masked) == len(inputs) == CLIENTS * 8
    for sent in masked:
        alike = [own for own in inputs if len(own) == len(sent)]
        assert alike
        assert all(np.mean(sent == own) < 0.01 for own in alike)
        bits = np.unpackbits(np.ascontiguousarray(sent).view(np.uint8))
        assert abs(bits.mean() - 0.5) < 5 * 0.5 / np.sqrt(len(bits))
    tables = [json.loads(content["sum"]["json"]) for content in replies]
    in_the_open = {name for table in tables for name in table}
    assert in_the_open == {"keys", "shares", "client", "layout", "self_masks", "mask_keys"}


def test_a_client_shows_nothing_to_a_server_that_asks_in_the_open(tmp_path: Path) -> None:
    recipe = tomllib.loads(STATELESS) | {"num_clients": CLIENTS, "secure_aggregation": True}
    task = Task(recipe, {"call": "recalibrate", "settings": {}}, {}, Broadcast(1, ModelState({}), 0), 0, {})
    with pytest.raises(ValueError, match="this task is not of a secure sum"):
        run_task(task, OWN_DATA)
