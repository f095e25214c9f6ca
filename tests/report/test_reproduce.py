from __future__ import annotations

import tomllib
from html import unescape
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from decollapse.config import from_table, to_table
from decollapse.experiment import Experiment
from decollapse.report import group_runs, read_run
from decollapse.report.reproduce import commands, toml

KEYS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=5)
VALUES = st.one_of(
    st.integers(-(2**40), 2**40),
    st.floats(allow_nan=False),
    st.booleans(),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cs",), exclude_characters="\x7f"), max_size=5),
)
TABLES = st.recursive(
    st.one_of(VALUES, st.lists(VALUES, max_size=3), st.lists(st.dictionaries(KEYS, VALUES, max_size=2), max_size=2)),
    lambda inner: st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(KEYS, TABLES, max_size=4))
def test_a_recipe_survives_the_way_through_toml(recipe: dict[str, Any]) -> None:
    assert tomllib.loads(toml(recipe)) == recipe


def test_the_recipe_on_the_page_is_one_that_runs() -> None:
    experiment = Experiment(rounds=3, cohort_size=2)
    assert from_table(tomllib.loads(toml(to_table(experiment)))) == experiment


def test_null_is_left_out() -> None:
    assert tomllib.loads(toml({"a": None, "b": {"c": None, "d": 1}})) == {"b": {"d": 1}}


def test_each_run_has_its_command_and_each_setting_its_recipe(two_groups) -> None:
    text = unescape(commands(group_runs([read_run(path) for path in two_groups])))
    assert "decollapse run recipe-2.toml --sweep seed=0,1,2\n" in text.replace("<", "\n")
    assert "[client.objective.feddecorr]\nbeta = 0.1" in text
    assert "decollapse report \\\n" in text
