"""The recipes of the page of privacy build."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from decollapse.config import from_table
from decollapse.experiment import Experiment

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "privacy.md").read_text()


@pytest.mark.parametrize("recipe", re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL))
def test_a_recipe_of_the_page_builds(recipe: str) -> None:
    assert isinstance(from_table(tomllib.loads(recipe)), Experiment)


def test_the_page_has_a_recipe_for_each_measure() -> None:
    for setting in ("secure_aggregation", "evaluation.federated.privacy", "private_mean"):
        assert setting in "".join(re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL))
