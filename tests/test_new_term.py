"""The page about new terms: its code, its recipes and its command, as they stand there."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import json
import math
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from decollapse import cli
from decollapse.aggregate.mean import WeightedMean
from decollapse.algorithms import fedavg, with_term
from decollapse.catalog import TERMS
from decollapse.config import from_table, to_table
from decollapse.core import ClientResult, ModelState
from decollapse.experiment import Experiment, prepare
from decollapse.objective import SendingTerm, StatefulTerm, Step
from decollapse.server_state import ServerState
from decollapse.simulation import RoundRecord

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "new_term.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


BY_PATH, BY_NAME, WITH_A_SERVER, WITH_AN_AGGREGATOR = blocks("toml")


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A folder with `my_terms.py`, the page's first file, and `my_method.py`, the rest of its code."""
    term, *rest = blocks("python")
    (tmp_path / "my_terms.py").write_text(term)
    (tmp_path / "my_method.py").write_text("\n\n".join(rest))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("my_terms", "my_method"):
        sys.modules.pop(name, None)
    yield tmp_path
    for name in ("my_terms", "my_method"):
        sys.modules.pop(name, None)


@pytest.fixture
def my_terms(written: Path) -> ModuleType:
    return importlib.import_module("my_terms")


@pytest.fixture
def my_method(written: Path) -> ModuleType:
    return importlib.import_module("my_method")


def experiment(recipe: str) -> Experiment:
    return from_table(tomllib.loads(recipe) | {"engine": "serial"})


def run(asked: Experiment) -> list[tuple[RoundRecord, ServerState]]:
    """The rounds after the initial evaluation."""
    return list(prepare(asked).run())[1:]


def test_the_files_own_examples_hold(my_terms: ModuleType) -> None:
    assert doctest.testmod(my_terms).attempted > 0
    assert doctest.testmod(my_terms).failed == 0


def test_its_gradient_is_finite_where_a_prediction_is_certain(my_terms: ModuleType) -> None:
    logits = torch.tensor([[1e4, 0.0, 0.0], [0.0, 1.0, 2.0]], requires_grad=True)
    my_terms.confidence_loss(logits).backward()
    assert torch.isfinite(logits.grad).all()


def test_the_recipe_with_the_import_path_trains_with_the_term_in_every_clients_metrics(written: Path) -> None:
    rounds = run(experiment(BY_PATH))
    assert len(rounds) == 2
    for record, _ in rounds:
        assert len(record.clients) == 4
        assert not record.rejected
        for client in record.clients:
            assert -0.1 * math.log(10) <= client.metrics["confidence_penalty"] < 0


def test_the_line_in_the_catalogue_gives_the_same_experiment(
    my_terms: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    (diff,) = blocks("diff")
    ((name, class_name),) = re.findall(r'^\+    "(\w+)": (\w+),$', diff, re.MULTILINE)
    assert f"import {class_name}\n" in diff
    monkeypatch.setitem(TERMS, name, getattr(my_terms, class_name))
    assert experiment(BY_NAME) == experiment(BY_PATH)
    assert to_table(experiment(BY_PATH))["client"]["objective"][name] == {"strength": 0.1}


def test_the_line_in_python_gives_the_same_algorithm(my_terms: ModuleType) -> None:
    (line,) = re.findall(r"`(with_term\(.*?)`", PAGE)
    names = {"with_term": with_term, "fedavg": fedavg, "ConfidencePenalty": my_terms.ConfidencePenalty}
    assert eval(line, names) == experiment(BY_PATH).algorithm


def test_a_strength_of_zero_is_fedavg_to_the_bit(written: Path) -> None:
    off = experiment(BY_PATH.replace("strength = 0.1", "strength = 0.0"))
    plain = dataclasses.replace(off, client=fedavg().client)
    (*_, (_, without)), (*_, (_, at_zero)) = run(plain), run(off)
    (*_, (_, with_it)) = run(experiment(BY_PATH))
    for name, leaf in without.model.params.items():
        assert torch.equal(leaf, at_zero.model.params[name])
    assert any(not torch.equal(leaf, with_it.model.params[name]) for name, leaf in without.model.params.items())


def test_a_bad_strength_is_one_sentence(written: Path) -> None:
    with pytest.raises(ValueError, match="strength is a strength, a finite number from 0 on, got -1.0"):
        experiment(BY_PATH.replace("strength = 0.1", "strength = -1.0"))


def test_the_command_writes_the_metric_where_the_page_says(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (written / "confidence.toml").write_text(BY_PATH)
    (command,) = blocks("console")
    _, path, program, *arguments = shlex.split(command)
    assert (path, program) == ("PYTHONPATH=.", "decollapse")
    assert cli.run_command([*arguments, "-s", "engine=serial"]) == 0
    assert "accuracy" in capsys.readouterr().out
    records = [json.loads(line) for line in (written / "runs/confidence/records.jsonl").read_text().splitlines()]
    assert all(client["metrics"]["confidence_penalty"] < 0 for record in records[1:] for client in record["clients"])


def test_the_further_settings_of_the_page_are_understood(
    written: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (sweep,) = re.findall(r"`(--sweep .*?)`", PAGE, re.DOTALL)
    (setting,) = re.findall(r"`(-s .*?)`", PAGE, re.DOTALL)
    (written / "confidence.toml").write_text(BY_PATH)
    small = ["-s", "engine=serial", "-s", "rounds=1", "--out", "runs/sweep"]
    assert cli.run_command(["run", "confidence.toml", *shlex.split(sweep), *shlex.split(setting), *small]) == 0
    assert len(list(written.glob("runs/sweep/*/records.jsonl"))) == 2
    (schedule,) = re.findall(r"`(schedule = .*?)`", PAGE)
    (record, _), *_ = run(experiment(f"{BY_PATH}\n{schedule}\n"))
    assert all(-0.01 * math.log(10) <= client.metrics["confidence_penalty"] < 0 for client in record.clients)


def test_the_term_that_remembers_and_the_one_that_sends_are_what_the_package_takes_them_for(
    my_method: ModuleType,
) -> None:
    assert isinstance(my_method.OwnWay(), StatefulTerm)
    assert not isinstance(my_method.OwnWay(), SendingTerm)
    assert isinstance(my_method.LossReport(), SendingTerm)


def test_the_term_that_remembers_pulls_to_the_clients_own_model_and_not_to_the_anchor(my_method: ModuleType) -> None:
    local = ModelState({"w": torch.tensor([1.0, 3.0])})
    term, anchor = my_method.OwnWay(strength=2.0), ModelState({"w": torch.zeros(2)})
    state = term.next_state(term.init_state(anchor), SimpleNamespace(local=local, anchor=anchor))
    step = SimpleNamespace(params={"w": torch.tensor([1.0, 1.0])}, anchor=anchor, state=state)
    assert float(term(step)) == 4.0


def test_the_recipe_with_state_and_server_trains(my_method: ModuleType) -> None:
    (first, start), (second, end) = run(experiment(WITH_A_SERVER))
    assert not first.rejected
    assert not second.rejected
    assert all(client.metrics["own_way"] > 0 for client in second.clients)
    sent = sum(client.num_examples * client.metrics["cross_entropy"] for client in second.clients)
    assert float(end.optimizer["loss"]) == pytest.approx(sent / sum(c.num_examples for c in second.clients), rel=1e-5)
    assert float(start.optimizer["lr"]) == 1.0


def test_the_server_halves_its_step_when_the_loss_has_risen(my_method: ModuleType) -> None:
    server, delta = my_method.HalvingServer(), {"w": torch.ones(1)}
    state, steps = server.init(delta, num_clients=1), []
    for loss in (2.0, 1.0, 3.0, 4.0):
        aggregate = my_method.Aggregate(delta, {}, 1, 1, extras={"loss_report/loss": torch.tensor(loss)})
        step, state = server.update(aggregate, state)
        steps.append(float(step["w"]))
    assert steps == [1.0, 1.0, 0.5, 0.25]


@pytest.mark.parametrize(("power", "weights"), [(1.0, "examples"), (0.0, "uniform")])
def test_the_aggregator_is_between_the_two_means(my_method: ModuleType, power: float, weights: str) -> None:
    results = [
        ClientResult(client, examples, 1, {"w": torch.tensor([float(client)])}, {"b": torch.ones(1)}, {})
        for client, examples in enumerate((1, 5, 20))
    ]
    ours, theirs = my_method.DampedMean(power=power)(results), WeightedMean(weights=weights)(results)
    assert ours.delta["w"] == pytest.approx(float(theirs.delta["w"]))
    assert (ours.num_clients, ours.num_examples) == (3, 26)
    assert my_method.DampedMean()([]) is None


def test_the_recipe_with_the_aggregator_trains(my_method: ModuleType) -> None:
    asked = experiment(WITH_AN_AGGREGATOR)
    assert asked.aggregate == my_method.DampedMean(power=0.5)
    *_, (record, _) = run(asked)
    assert record.evaluation is not None
    assert math.isfinite(record.evaluation.loss)


def test_what_a_step_is_said_to_have_it_has() -> None:
    shown = set(re.findall(r"`step\.(\w+)", PAGE))
    fields = {field.name for field in dataclasses.fields(Step)}
    assert shown == fields
