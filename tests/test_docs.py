"""What the documentation says is so: its examples run, its recipes build, its commands exist."""

from __future__ import annotations

import doctest
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from decollapse import cli
from decollapse.algorithms import fedavg, with_term
from decollapse.config import from_table
from decollapse.experiment import Experiment, prepare

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


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
    session = doctest.DocTestParser().get_doctest(page.read_text(), {}, page.name, str(page), 0)
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
    recipes = [*blocks(ROOT / "docs" / "guide.md", "toml")]
    recipes += [path.read_text() for path in (*(ROOT / "recipes").glob("*.toml"), cli.DEMO)]
    assert len(recipes) >= 4
    for recipe in recipes:
        assert isinstance(from_table(tomllib.loads(recipe)), Experiment)


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
    for command in ("run", "resume", "compare", "report", "list", "demo"):
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
