"""Searches: the settings of a recipe that are best by a measured number, proposed by Optuna."""

from __future__ import annotations

from decollapse.search.question import Search
from decollapse.search.results import as_json, best_trials
from decollapse.search.space import Choice, Range, Varied, varied
from decollapse.search.storage import OptunaMissingError
from decollapse.search.trials import Tried, run_trials

__all__ = [
    "Choice",
    "OptunaMissingError",
    "Range",
    "Search",
    "Tried",
    "Varied",
    "as_json",
    "best_trials",
    "run_trials",
    "varied",
]
