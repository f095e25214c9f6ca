"""A new app is ready: its files fit together, and it trains as it is."""

from __future__ import annotations

import ast
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from loopback import Loopback, faithful

from decollapse.flower.inbox import Patience
from decollapse.flower.scaffold import new_app
from decollapse.flower.server import SETTINGS, run_federation


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = new_app(tmp_path / "My-Trial")
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_trial"]:
        del sys.modules[name]


def test_it_trains_and_writes_a_run_folder(app: Path, tmp_path: Path) -> None:
    module = import_module("my_trial.app")
    recipe = (app / "my_trial" / "recipe.toml").read_text()
    settings = {"out": str(tmp_path / "run"), "set": "rounds=1", "wait": 1}
    folder = run_federation(Loopback(module.client_app, [faithful] * 3), recipe, module.data, settings)
    assert folder.rounds_done == 1
    assert folder.experiment.num_clients == 3


def test_what_a_run_may_be_told_is_written_down_with_its_default(app: Path) -> None:
    config = tomllib.loads((app / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    assert set(config) == set(SETTINGS)
    told = {key.replace("-", "_"): config[key] for key in ("deadline", "retries", "min-results", "wait")}
    assert Patience(**told) == Patience()


def test_its_components_are_names_that_flower_finds_without_importing(app: Path) -> None:
    components = tomllib.loads((app / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["components"]
    for reference in components.values():
        module, _, name = reference.partition(":")
        tree = ast.parse((app / (module.replace(".", "/") + ".py")).read_text())
        assigned = [target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
        assert name in assigned


def test_no_placeholder_is_left(app: Path) -> None:
    for path in (path for path in app.rglob("*") if path.is_file() and path.name != "LICENSE"):
        text = path.read_text()
        assert "PACKAGE" not in text, path
        assert "NAME" not in text, path


def test_runs_are_no_part_of_the_bundle(app: Path) -> None:
    assert "runs/" in (app / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize("name", ["1st", "my_app", "a b", "x" * 60])
def test_a_name_that_flower_refuses_is_refused_first(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="letters, digits and hyphens"):
        new_app(tmp_path / name)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="is there already"):
        new_app(tmp_path / "app")
    assert [path.name for path in (tmp_path / "app").iterdir()] == ["thesis.tex"]
