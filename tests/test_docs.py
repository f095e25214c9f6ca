"""What the documentation says is so: its examples run, its recipes build, its commands exist."""

from __future__ import annotations

import doctest
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from decollapse import algorithms, cli, sam
from decollapse.algorithms import fedavg, with_term
from decollapse.catalog import AGGREGATORS, ALGORITHMS, TERMS
from decollapse.config import from_table, load_recipe
from decollapse.experiment import Experiment, prepare

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = (
    *("run", "resume", "compare", "report", "search", "diagnose", "figures", "theory", "list", "demo"),
    *("reproduce", "flower"),
)
METHODS = ROOT / "docs" / "methods.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """The arguments of every `decollapse` command that a page shows."""
    lines = "".join(blocks(page, "console")).replace("\\\n", " ").splitlines()
    return [shlex.split(line)[2:] for line in lines if line.startswith("$ decollapse ")]


def rows(page: Path, header: str) -> list[list[str]]:
    """The cells, without backticks around them, of the table whose header begins like this."""
    table = page.read_text().partition(f"\n| {header}")[2].partition("\n\n")[0]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_page_of_results_has_the_numbers_of_its_tables() -> None:
    page = (ROOT / "docs" / "results" / "README.md").read_text()
    folders = re.findall(r"^### \[.*\]\((.*)/table\.md\)", page, re.MULTILINE)
    assert len(folders) > 5
    command = [sys.executable, str(ROOT / "scripts" / "summary_of_tables.py"), *folders]
    printed = subprocess.run(command, cwd=ROOT / "docs" / "results", capture_output=True, text=True, check=True).stdout
    assert printed.strip() in page


def test_the_readme_has_the_numbers_of_the_results() -> None:
    """A line of the README is a line of a table there: FedAvg, with FedDecorr, and what was gained."""
    page = (ROOT / "docs" / "results" / "README.md").read_text()
    there = {
        tuple(line[1:5]) for line in (re.split(r"\s*\|\s*", row)[1:] for row in page.splitlines()) if len(line) > 5
    }
    for _, plain, feddecorr, gain in rows(ROOT / "README.md", "experiment"):
        found = re.fullmatch(r"(?:\*\*)?([+\u2212][\d.]+)(?:\*\*)? \((.*)\)", gain)
        if found:  # those of other pages have no interval
            assert (plain, feddecorr, found[1], found[2]) in there
            assert ("**" in gain) == (found[2][0] == found[2].partition(" to ")[2][0])


NUMBER = re.compile(r"\d+(?:\.\d+)?")


class RoundedOutput(doctest.OutputChecker):
    """Numbers of a training run differ a little between processors: within a fifth, they are what the page shows."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        if super().check_output(want, got, optionflags):
            return True
        same_words = NUMBER.sub("#", want) == NUMBER.sub("#", got)
        pairs = zip(map(float, NUMBER.findall(want)), map(float, NUMBER.findall(got)), strict=False)
        return same_words and all(shown == pytest.approx(here, rel=0.2) for shown, here in pairs)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_sessions_give_what_they_show(page: Path) -> None:
    session = doctest.DocTestParser().get_doctest("\n".join(blocks(page, "pycon")), {}, page.name, str(page), 0)
    runner = doctest.DocTestRunner(checker=RoundedOutput())
    runner.run(session)
    assert runner.failures == 0


@pytest.mark.parametrize(("got", "same"), [("rank 42 of 9", True), ("rank 20 of 9", False), ("rang 40 of 9", False)])
def test_shown_numbers_may_differ_by_a_fifth_and_words_not_at_all(got: str, same: bool) -> None:
    assert RoundedOutput().check_output("rank 40 of 9\n", got + "\n", 0) is same


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_recipe_builds() -> None:
    recipes = [*blocks(ROOT / "docs" / "guide.md", "toml"), *blocks(METHODS, "toml")]
    recipes += [path.read_text() for path in (*(ROOT / "recipes").glob("*.toml"), cli.DEMO)]
    assert len(recipes) >= 4
    for recipe in recipes:
        assert isinstance(from_table(tomllib.loads(recipe)), Experiment)


@pytest.mark.slow
def test_the_commands_of_the_readme_run_and_say_what_it_shows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text()
    (command,) = [block for block in blocks(ROOT / "README.md", "console") if "decollapse run" in block]
    arguments = shlex.split(command.replace("\\\n", " ").removeprefix("$ "))
    assert arguments[0] == "decollapse"
    assert cli.run_command([*arguments[1:], "-s", "engine=serial"]) == 0
    printed = capsys.readouterr().out
    shown = next(block for block in blocks(ROOT / "README.md", "text") if "accuracy" in block)
    for line in shown.strip().splitlines():
        words = re.findall(r"[A-Za-z+]+(?: [A-Za-z+]+)*", line)
        assert all(word in printed for word in words), line
    for command in re.findall(r"`decollapse ([a-z]+)", text):
        assert cli.run_command([command, "--help"]) == 0


def test_the_guide_names_every_command() -> None:
    guide = (ROOT / "docs" / "guide.md").read_text()
    for command in COMMANDS:
        assert f"`decollapse {command}" in guide


def test_the_guides_own_term_trains(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (source,) = blocks(ROOT / "docs" / "guide.md", "python")
    (tmp_path / "my_terms.py").write_text(f"from __future__ import annotations\n\n{source}")
    monkeypatch.syspath_prepend(tmp_path)
    table = {
        "data": "digits",
        "model": "mlp",
        "rounds": 1,
        "engine": "serial",
        "client": {"objective": {"my_terms:SmallFeatures": {"weight": 0.1}}},
    }
    experiment = from_table(table)
    assert with_term(fedavg(), sys.modules["my_terms"].SmallFeatures(weight=0.1)) == experiment.algorithm
    *_, (record, _) = prepare(experiment).run()
    assert record.clients[0].metrics["small_features"] > 0


SMALL = ["data=digits", "data.train_size=300", "data.test_size=100", "rounds=1", "engine=serial"]
DEALT = ["partition.alpha=1.0", "partition.min_examples=3"]


def assert_default(component: Callable[..., Any], setting: str) -> None:
    """`setting` is empty, or a setting of `component` with its default, such as `mu = 0.01`, and perhaps a remark."""
    for key, value in tomllib.loads(setting.partition("`")[0]).items():
        assert signature(component).parameters[key].default == value, (component, setting)


def paper(cell: str) -> str:
    """The link of a cell; empty if there is none."""
    found = re.search(r"\]\((https://[^)]+)\)", cell)
    return found[1] if found else ""


def documentation(component: type) -> str:
    return (component.__doc__ or "") + (sys.modules[component.__module__].__doc__ or "")


def test_every_algorithm_is_a_row_of_the_page_of_methods() -> None:
    chosen = [tomllib.loads(f"algorithm = {row[2]}")["algorithm"] for row in rows(METHODS, "method | what")]
    assert {name if isinstance(name, str) else name["name"] for name in chosen} == set(ALGORITHMS)


@pytest.mark.parametrize("row", rows(METHODS, "method | what"), ids=lambda row: row[3])
def test_a_method_is_what_its_row_says(row: list[str]) -> None:
    method, _, recipe, call, setting = row
    make = getattr(algorithms, call.partition("(")[0])
    assert from_table(tomllib.loads(f"algorithm = {recipe}")).algorithm == eval(call, vars(algorithms))
    assert_default(make, setting)
    assert paper(method) in (make.__doc__ or "") + (sam.__doc__ or "")


@pytest.mark.parametrize("row", rows(METHODS, "term |"), ids=lambda row: row[1])
def test_a_term_is_what_its_row_says(row: list[str]) -> None:
    what, name, path, setting = row
    assert f"decollapse.terms.{path}" == f"{TERMS[name].__module__}.{TERMS[name].__qualname__}"
    assert_default(TERMS[name], setting)
    assert paper(what) in documentation(TERMS[name])


def test_every_term_is_a_row_of_the_page_of_methods_or_part_of_a_method() -> None:
    parts = {type(term) for make in ALGORITHMS.values() for term in make().client.objective}
    alone = {name for name, term in TERMS.items() if term not in parts}
    assert {name for _, name, _, _ in rows(METHODS, "term |")} == alone


def test_the_aggregators_of_the_page_of_methods_are_those_there_are() -> None:
    shown = rows(METHODS, "aggregator |")
    assert {name.strip('"') for _, name, *_ in shown} == set(AGGREGATORS)
    for what, name, path, setting, single in shown:
        aggregator = AGGREGATORS[name.strip('"')]
        assert aggregator.__name__ == path
        assert aggregator.needs_single_updates == (single == "yes")
        assert_default(aggregator, setting)
        assert paper(what) in documentation(aggregator)


@pytest.mark.parametrize("recipe", blocks(METHODS, "toml"), ids=lambda recipe: recipe.partition("\n")[0])
def test_the_recipes_of_the_page_of_methods_train(recipe: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(recipe)
    dealt = [] if "partition" in tomllib.loads(recipe) else DEALT
    *_, (record, _) = prepare(load_recipe(path, [*SMALL, *dealt, "client.epochs=1"])).run()
    assert record.evaluation is not None
    assert record.evaluation.loss < 10
    assert not record.rejected


@pytest.mark.parametrize("arguments", commands(METHODS), ids=" ".join)
def test_the_commands_of_the_page_of_methods_run(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run_command([*arguments, "-s", "engine=serial"]) == 0
    assert "accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("row", rows(METHODS, "this |"), ids=lambda row: row[0])
def test_what_the_page_of_methods_calls_refused_is_refused(row: list[str]) -> None:
    options, when, sentence = row
    settings = [*SMALL, *DEALT, "model=mlp", *(word for word in shlex.split(options) if word != "-s")]
    if when == "at once":
        with pytest.raises(ValueError, match=re.escape(sentence)):
            load_recipe(None, settings)
        return
    experiment = load_recipe(None, settings)
    with pytest.raises((ValueError, RuntimeError), match=re.escape(sentence)):
        list(prepare(experiment).run())


def test_the_diagnosis_that_the_readme_shows_is_the_one_it_gets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    (command,) = [found for found in commands(ROOT / "README.md") if found[0] == "diagnose"]
    assert cli.run_command(command) == 0
    (shown,) = [block for block in blocks(ROOT / "README.md", "text") if block.startswith(command[1])]
    assert capsys.readouterr().out.split()[: len(shown.split())] == shown.split()  # lines break by the terminal's width
