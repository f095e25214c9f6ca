"""Real processes on the loopback interface, some of them killed: the weights are those of one process, to the bit."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("flwr")

from decollapse.flower.keys import write_certificates, write_node_key
from decollapse.flower.local import NAME, LocalFederation, free_port, local_federation
from decollapse.flower.processes import kill
from decollapse.flower.scaffold import new_app
from decollapse.runs import RunFolder

pytestmark = pytest.mark.slow
TRAINING = "rounds=3 client.objective.moon=true client.batch_size=50"
MEASURED = f"{TRAINING} evaluation.local_every=1 evaluation.federated_every=2"
UNMEASURED = f"{TRAINING} evaluation.local_every=0 evaluation.federated_every=0"
"""Each message starts PyTorch in three processes: where nothing but the weights is compared, there are fewer."""
RUN_WITHIN = 900.0
"""Seconds, on a machine that is busy with something else."""
SERIAL = """
import sys, tomllib
from pathlib import Path
from decollapse.config import from_table, set_key
from decollapse.flower import OwnData
from decollapse.runs import RunFolder, continue_run
from decollapse.secure import InProcess, SecureEngine
from trial.app import data
table = tomllib.loads(Path("trial/recipe.toml").read_text())
for change in sys.argv[2].split():
    set_key(table, change)
experiment = from_table({"num_clients": 3} | table)
def masked(engine):
    return SecureEngine(InProcess(engine), experiment.aggregate, 3, engine) if experiment.secure_aggregation else engine
folder = RunFolder.create(Path(sys.argv[1]), experiment)
for _ in continue_run(folder, prepared=data.at_server(experiment), watch=masked):
    pass
"""

FAULTY_APP = """
import json, os
from pathlib import Path

import torch
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.clientapp import ClientApp

from decollapse.flower import OwnData, make_client_app, make_server_app
from decollapse.flower.tensors import decode, encode

from .data import CLASSES, PREPROCESS, client_data, test_data

data = OwnData(client_data, test_data, CLASSES, PREPROCESS)
server_app = make_server_app(Path(__file__).with_name("recipe.toml"), data)
honest = make_client_app(data)
client_app = ClientApp()

def nan(content):
    content["delta"] = encode({name: leaf * torch.nan for name, leaf in decode(content["delta"]).items()})

def longer(content):
    content["delta"] = encode({name: torch.cat([leaf, leaf]) for name, leaf in decode(content["delta"]).items()})

def garbage(content):
    content["delta"] = ArrayRecord({"w": Array("float32", (3,), "numpy.ndarray", os.urandom(64))})

def nothing(content):
    os._exit(1)

FAULTS = {(1, 1): nan, (1, 2): longer, (2, 1): garbage, (2, 2): nothing}

@client_app.query()
def who(message: Message, context: Context) -> Message:
    return honest(message, context)

@client_app.train()
def train(message: Message, context: Context) -> Message:
    round = json.loads(message.content["about"]["json"])["round"]
    if round == 3:
        raise RuntimeError("out of order")
    reply = honest(message, context)
    if fault := FAULTS.get((round, context.node_config["partition-id"])):
        fault(reply.content)
    return reply
"""
"""The template's app with nodes that answer rubbish, or not at all; in round 3 none answers."""


@dataclass(frozen=True)
class Place:
    """A federation, the app beside it, and the same run in one process."""

    federation: LocalFederation
    app: Path
    serial: RunFolder

    def submit(self, out: str, **config: Any) -> subprocess.Popen[str]:
        """Start a run, and stream what it says."""
        settings = {"out": str(self.app.parent / out), "set": UNMEASURED, "wait": 300, "retries": 3} | config
        text = " ".join(f"{key}={json.dumps(value)}" for key, value in settings.items())
        flwr = str(Path(sys.executable).with_name("flwr"))
        return subprocess.Popen(
            [flwr, "run", str(self.app), NAME, "--stream", "--run-config", text],
            env=self.federation.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, out: str, **config: Any) -> str:
        """A whole run; what it said."""
        said, _ = self.submit(out, **config).communicate(timeout=RUN_WITHIN)
        return said

    def assert_serial_bits(self, out: str) -> None:
        ours, theirs = RunFolder.open(self.app.parent / out).load(), self.serial.load()
        assert ours is not None
        assert theirs is not None
        assert ours.round == theirs.round == 3
        trees = [(ours.model.params, theirs.model.params), (ours.model.buffers, theirs.model.buffers)]
        trees += [(kept["moon"], theirs.clients[client]["moon"]) for client, kept in ours.clients.items()]
        for mine, yours in trees:
            assert mine.keys() == yours.keys()
            for name, leaf in mine.items():
                assert torch.equal(leaf, yours[name]), name

    def assert_serial_spectra(self, out: str) -> None:
        assert spectra(self.app.parent / out) == spectra(self.serial.path)


def spectra(folder: Path) -> list[Any]:
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    federated = [line["federated"] and line["federated"]["spectrum"] for line in lines]
    local = [client["spectrum"] for line in lines for client in line["clients"]]
    return [[line["spectrum"], line["evaluation"], line["rejected"]] for line in lines] + federated + local


def in_one_process(app: Path, out: str, settings: str) -> None:
    command = [sys.executable, "-c", SERIAL, str(app.parent / out), settings]
    subprocess.run(command, cwd=app, check=True, timeout=300)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    work = tmp_path_factory.mktemp("federation")
    app = new_app(work / "trial")
    in_one_process(app, "serial", MEASURED)
    with local_federation(3, work) as federation:
        yield Place(federation, app, RunFolder.open(work / "serial"))
    assert not federation.folder.exists()


def wait_for(condition: Callable[[], bool], within: float = 600.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def rounds_done(folder: Path) -> int:
    checkpoint = folder / "checkpoint.safetensors"
    return (RunFolder.open(folder).rounds_done or 0) if checkpoint.exists() else -1


def processes(place: Place, name: str, program: str) -> list[int]:
    """The processes of one of Flower's programs that belong to a node, or to the SuperLink."""
    found = []
    for pid in place.federation.processes_of(name):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        found += [pid] if program.encode() in command else []
    return found


def training_in_round_2(place: Place, out: str, node: int) -> int:
    """The process of a client that has begun its second round."""
    wait_for(lambda: rounds_done(place.app.parent / out) == 1)
    wait_for(lambda: bool(processes(place, f"node-{node}", "flwr-clientapp")))
    return processes(place, f"node-{node}", "flwr-clientapp")[0]


def test_the_tls_federation_ends_with_the_weights_and_spectra_of_one_process(place: Place) -> None:
    said = place.run("whole", set=MEASURED)
    assert "round 3/3" in said
    assert "done: decollapse report" in said
    place.assert_serial_bits("whole")
    place.assert_serial_spectra("whole")


def test_under_secure_aggregation_it_ends_with_the_weights_of_one_process_and_nodes_keep_their_states(
    place: Place,
) -> None:
    settings = f"{UNMEASURED} secure_aggregation=true"
    in_one_process(place.app, "masked-serial", settings)
    said = place.run("masked", set=settings)
    assert "done: decollapse report" in said
    masked = replace(place, serial=RunFolder.open(place.app.parent / "masked-serial"))
    masked.assert_serial_bits("masked")  # words add up exactly, whatever masks they had
    ours = RunFolder.open(place.app.parent / "masked").load()
    assert ours is not None
    assert not ours.clients
    kept = sorted((place.federation.folder / "home" / "decollapse").rglob("*.safetensors"))
    assert [file.name for file in kept] == [f"client-{client}.safetensors" for client in range(3)]
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in kept)


def test_nodes_that_answer_rubbish_are_left_out_and_where_all_fail_the_rounds_before_are_kept(place: Place) -> None:
    faulty = replace(place, app=new_app(place.app.parent / "faulty"))
    (faulty.app / "faulty" / "app.py").write_text(FAULTY_APP)
    said = faulty.run("faults", **{"min-results": 1, "retries": 0})
    assert "round 3 has 0 of 3 results, and needs 1: client 0: node " in said
    folder = RunFolder.open(place.app.parent / "faults")
    assert folder.rounds_done == 2
    lines = [json.loads(line) for line in (folder.path / "records.jsonl").read_text().splitlines()]
    reasons = [{entry["client"]: entry["reason"] for entry in line["rejected"]} for line in lines]
    assert [reason.keys() for reason in reasons] == [set(), {1, 2}, {1, 2}]
    for round, client, reason in [(1, 1, "NaN or infinite"), (1, 2, "shape"), (2, 1, "no result"), (2, 2, "node ")]:
        assert reason in reasons[round][client]
    state = folder.load()
    assert state is not None
    assert all(leaf.isfinite().all() for leaf in state.model.params.values())


def test_a_client_process_killed_in_a_round_is_asked_again(place: Place) -> None:
    run = place.submit("client-killed")
    os.kill(training_in_round_2(place, "client-killed", 0), signal.SIGKILL)
    run.communicate(timeout=RUN_WITHIN)
    place.assert_serial_bits("client-killed")


def test_a_supernode_killed_in_a_round_and_started_again_takes_its_place(place: Place) -> None:
    run = place.submit("node-killed")
    training_in_round_2(place, "node-killed", 1)
    lose_power(place, 1)
    deadline = time.monotonic() + RUN_WITHIN
    while run.poll() is None:
        assert time.monotonic() < deadline
        start_again(place, 1)
        time.sleep(1)
    run.communicate(timeout=60)
    place.assert_serial_bits("node-killed")


def test_a_server_app_killed_in_a_round_goes_on_when_it_is_run_again(place: Place) -> None:
    run = place.submit("server-app-killed")
    training_in_round_2(place, "server-app-killed", 2)
    for pid in processes(place, "superlink", "flwr-serverapp"):
        os.kill(pid, signal.SIGKILL)
    run.kill()
    run.communicate(timeout=300)
    assert rounds_done(place.app.parent / "server-app-killed") == 1
    assert "going on after round 1" in place.run("server-app-killed")
    place.assert_serial_bits("server-app-killed")


def test_a_superlink_killed_in_a_round_goes_on_when_it_is_started_and_run_again(place: Place) -> None:
    run = place.submit("superlink-killed")
    training_in_round_2(place, "superlink-killed", 0)
    superlink = place.federation.superlink
    assert superlink is not None
    orphans = place.federation.processes_of("superlink")
    superlink.kill()  # what it started does not get to know
    superlink.wait(timeout=60)
    run.kill()
    run.communicate(timeout=300)
    place.federation.start_superlink()
    assert "going on after round 1" in place.run("superlink-killed")
    place.assert_serial_bits("superlink-killed")
    assert not [pid for pid in orphans if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize("wrong", ["key", "authority"])
def test_a_node_with_an_unregistered_key_or_a_wrong_authority_is_not_let_in(
    place: Place, tmp_path: Path, wrong: str
) -> None:
    write_certificates(tmp_path)
    write_node_key(tmp_path / "key")
    lose_power(place, 2)
    try:
        place.federation.start_node(2, **{wrong: tmp_path / {"key": "key", "authority": "ca.crt"}[wrong]})
        said = place.run(f"wrong-{wrong}", wait=90)
    finally:
        lose_power(place, 2)
        while not everyone_is_in(place):
            start_again(place, 2)
            time.sleep(2)
    assert "of 3 partitions 2 have a node" in said
    assert "partition-id 2" in said
    assert not (place.app.parent / f"wrong-{wrong}").exists()


def simulated(folder: Path) -> LocalFederation:
    """A SuperLink that simulates three nodes."""
    federation = LocalFederation(folder, 3, folder, port=free_port())
    (folder / "home").mkdir()
    (folder / "home" / "config.toml").write_text(
        f'[superlink.{NAME}]\naddress = "127.0.0.1:{federation.port}"\ninsecure = true\n'
        "options.num-supernodes = 3\noptions.backend.client-resources.num-cpus = 1\n"
    )
    program = str(Path(sys.executable).with_name("flower-superlink"))
    federation.superlink = subprocess.Popen(
        [program, "--simulation", "--insecure", "--host", "127.0.0.1", "--port", str(federation.port)],
        env=federation.environment,
        cwd=folder,
        start_new_session=True,
    )
    wait_for(lambda: answers(federation.port), within=60)
    return federation


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_simulation_ends_with_the_weights_and_spectra_of_one_process(place: Place, tmp_path: Path) -> None:
    simulation = Place(simulated(tmp_path), place.app, place.serial)
    try:
        said = simulation.run("simulated", set=MEASURED)
    finally:
        simulation.federation.stop()
    assert "done: decollapse report" in said
    place.assert_serial_bits("simulated")
    place.assert_serial_spectra("simulated")


def test_the_app_is_a_bundle_that_flower_takes(place: Place) -> None:
    assert "Successfully built" in place.federation.command("build", "--app", str(place.app))


def lose_power(place: Place, node: int) -> None:
    """A SuperNode and all it started end at once."""
    for pid in place.federation.processes_of(f"node-{node}"):
        kill(pid)
    place.federation.nodes[node].wait(timeout=60)


def start_again(place: Place, node: int) -> None:
    """Start a node that is down: Flower refuses it for as long as it takes the dead one to be alive."""
    if place.federation.nodes[node].poll() is not None:
        place.federation.start_node(node)


def everyone_is_in(place: Place) -> bool:
    said = json.loads(place.federation.command("supernode", "list", NAME, "--format", "json"))
    return [node["status"] for node in said["nodes"]].count("online") == 3
