"""The examples do what their pages say."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch

from decollapse import tree
from decollapse.config import load_recipe
from decollapse.core import Broadcast, ClientResult, ModelState
from decollapse.engines import Federation
from decollapse.experiment import Prepared, prepare
from decollapse.terms.feddecorr import FedDecorr
from decollapse.tree import RunningMean, Tree

NVFLARE = Path(__file__).resolve().parents[1] / "examples" / "nvflare"


@pytest.fixture(scope="module")
def client() -> ModuleType:
    """The script of a site, which needs no NVFlare until it is run."""
    spec = spec_from_file_location("nvflare_example_client", NVFLARE / "client.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(load_recipe(NVFLARE / "recipe.toml", ["rounds=1"]))


@pytest.fixture(scope="module")
def sent(client: ModuleType, prepared: Prepared) -> list[tuple[int, Tree]]:
    """What each site sends in round 1, with its weight."""
    start = prepared.initial_model()
    return [(result.num_examples, client.difference(result, start)) for result in results(prepared, start)]


def results(prepared: Prepared, start: ModelState) -> list[ClientResult]:
    experiment = prepared.experiment
    with experiment.engine(Federation(prepared.build_model, prepared.clients)) as engine:
        broadcast = Broadcast(1, start, experiment.seed)
        return [result for result, _ in engine.run(experiment.client, broadcast, [0, 1], {})]


def test_the_client_is_under_60_lines_and_decorrelates(prepared: Prepared) -> None:
    assert len((NVFLARE / "client.py").read_text().splitlines()) < 60
    assert any(isinstance(term, FedDecorr) for term in prepared.experiment.client.objective)


def test_parameters_are_the_serial_engines_update_to_the_bit(
    prepared: Prepared, sent: list[tuple[int, Tree]], client: ModuleType
) -> None:
    start = prepared.initial_model()
    dictionary = start.params | start.buffers
    for result, (weight, difference) in zip(results(prepared, client.received(dictionary, start)), sent, strict=True):
        assert weight == result.num_examples
        for name, leaf in result.delta.items():
            assert torch.equal(difference[name], leaf)


def test_batchnorms_statistics_go_and_its_counters_stay(prepared: Prepared, sent: list[tuple[int, Tree]]) -> None:
    start = prepared.initial_model()
    counters = {name for name, leaf in start.buffers.items() if not leaf.is_floating_point()}
    assert counters
    for _, difference in sent:
        assert difference.keys() == (start.params | start.buffers).keys() - counters


def test_their_weighted_mean_is_a_round_of_decollapse_up_to_rounding(
    prepared: Prepared, sent: list[tuple[int, Tree]]
) -> None:
    start, mean = prepared.initial_model(), RunningMean()
    for weight, difference in sent:
        mean.update(weight, difference)
    everything = start.params | start.buffers
    ours = tree.add(mean.result(), everything)
    *_, (_, server) = prepared.run()
    for name, leaf in (server.model.params | server.model.buffers).items():
        torch.testing.assert_close(ours.get(name, everything[name]), leaf, rtol=1e-5, atol=1e-6)


def test_a_model_that_lacks_an_entry_is_an_error(client: ModuleType, prepared: Prepared) -> None:
    start = prepared.initial_model()
    incomplete = {name: leaf for name, leaf in (start.params | start.buffers).items() if name != "head.bias"}
    with pytest.raises(KeyError, match="head.bias"):
        client.received(incomplete, start)


def test_what_a_term_sends_beside_the_model_is_not_dropped_in_silence(client: ModuleType) -> None:
    result = ClientResult(0, 1, 1, delta={}, buffers={}, metrics={}, extras={"scaffold/w": torch.zeros(1)})
    with pytest.raises(ValueError, match="scaffold/w, too"):
        client.difference(result, ModelState({}))


def run_job(recipe: Path, workspace: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(NVFLARE / "job.py"), str(recipe), "--workspace", str(workspace)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
def test_nvflare_ends_with_the_model_that_decollapse_run_has_up_to_rounding(tmp_path: Path) -> None:
    pytest.importorskip("nvflare")
    job = run_job(NVFLARE / "recipe.toml", tmp_path)
    assert job.returncode == 0, job.stderr

    *_, (record, server) = prepare(load_recipe(NVFLARE / "recipe.toml")).run()
    path = tmp_path / "recipe" / "server" / "simulate_job" / "app_server" / "FL_global_model.pt"
    theirs = torch.load(path)["model"]
    for name, leaf in (server.model.params | server.model.buffers).items():
        torch.testing.assert_close(theirs[name], leaf, rtol=1e-4, atol=1e-5)
    shown = re.search(r"after round 2: accuracy ([0-9.]+)", job.stdout)
    assert shown is not None
    assert record.evaluation is not None
    assert float(shown[1]) == pytest.approx(record.evaluation.accuracy, abs=0.01)
    assert shown[0] in (NVFLARE / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("setting", ['server = "fedexp"', "cohort_size = 1", 'algorithm = "scaffold"'])
def test_a_recipe_that_asks_for_more_than_fedavg_is_refused_in_a_sentence(setting: str, tmp_path: Path) -> None:
    pytest.importorskip("nvflare")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f"{setting}\n{(NVFLARE / 'recipe.toml').read_text()}")

    job = run_job(recipe, tmp_path)

    assert job.returncode == 2
    assert "the server is NVFlare's FedAvg, which asks every client" in job.stderr
    assert "Traceback" not in job.stderr
