from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from decollapse import cli
from decollapse.client import ClientUpdate
from decollapse.data import IID, DataSource
from decollapse.engines.process import Process
from decollapse.engines.serial import Serial
from decollapse.experiment import Experiment
from decollapse.measurements import EvaluationSettings
from decollapse.models import MLP
from decollapse.profile import TRAINING, flops_an_example, matmul_rate, profile_run
from decollapse.runs import RunFolder, continue_run

TINY = Experiment(
    data=DataSource("digits", train_size=200),
    partition=IID(),
    num_clients=4,
    model=MLP(hidden=(16,), norm="none"),
    client=ClientUpdate(epochs=3),
    rounds=2,
    engine=Serial(),
    evaluation=EvaluationSettings(local_every=1, federated_every=1, probe_size=50),
)


def finished(experiment: Experiment, path: Path) -> RunFolder:
    folder = RunFolder.create(path, experiment)
    for _ in continue_run(folder):
        pass
    return RunFolder.open(path)


@pytest.mark.parametrize(("engine", "workers"), [(Serial(), 1), (Process(workers=2), 2)])
def test_the_parts_add_up_to_what_all_workers_had(engine: Serial | Process, workers: int, tmp_path: Path) -> None:
    found = profile_run(finished(replace(TINY, engine=engine), tmp_path / "run"))
    assert (found.rounds, found.workers) == (2, workers)
    assert sum(found.parts.values()) == pytest.approx(workers * found.wall)
    assert all(
        found.parts[part] > 0 for part in (*TRAINING, "rest of a client", "evaluation", "diagnosis", "federated")
    )
    assert found.examples == pytest.approx(200 * 3 / found.wall)
    assert 0 < found.share < 1


def test_operations_of_linear_layers_by_hand() -> None:
    # 64 x 16 and 16 x 10: two a product, forward; as many for each layer's weights; for inputs, the second's alone.
    model = MLP(hidden=(16,), norm="none")((1, 8, 8), 10)
    by_hand = 2 * (64 * 16 + 16 * 10) * 2 + 2 * 16 * 10
    assert flops_an_example(model, torch.ones(3, 1, 8, 8)) == by_hand


def test_measuring_the_machine_leaves_its_threads_alone() -> None:
    before = torch.get_num_threads()
    assert matmul_rate(size=64, turns=1) > 0
    assert torch.get_num_threads() == before


def test_a_run_that_was_not_timed_is_named(tmp_path: Path) -> None:
    folder = finished(TINY, tmp_path / "run")
    lines = [json.loads(line) for line in (folder.path / "records.jsonl").read_text().splitlines()]
    for client in (client for record in lines for client in record["clients"]):
        del client["parts"]
    (folder.path / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match="run: no round whose parts were timed"):
        profile_run(folder)


def test_the_command_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["data=digits", "data.train_size=200", "model=mlp", "engine=serial", "rounds=1", "num_clients=2"]
    arguments = [word for setting in settings for word in ("-s", setting)]
    assert cli.run_command(["run", *arguments, "--profile", "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().err
    assert "1 round of" in said
    assert all(part in said for part in (*TRAINING, "waiting", "evaluation"))
