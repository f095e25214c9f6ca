"""What a search is to find out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decollapse.config import RecipeError, load_recipe, to_table
from decollapse.experiment import Experiment
from decollapse.report.comparison import METRICS
from decollapse.report.summary import Column
from decollapse.search.space import Varied
from decollapse.study import try_out


@dataclass(frozen=True)
class Search:
    """What is searched for, and where.

    Attributes:
        recipe: a TOML file, or None for the defaults.
        overrides: `key=value`, as in `load_recipe`.
        space: the settings that vary; at least one, none twice.
        metric: a key of `METRICS`; the best trial has the most of it, or the least where less is better.
        seeds: runs a trial, whose mean counts: with the recipe's seed and those that follow it.
        out: the folder of the study.
        prune: whether a trial ends early whose best round so far, of its first seed, is worse than the median of the
            trials before at that round.
    """

    recipe: Path | None
    overrides: tuple[str, ...]
    space: tuple[Varied, ...]
    out: Path
    metric: str = "accuracy"
    seeds: int = 1
    prune: bool = True

    def __post_init__(self) -> None:
        keys = [part.key for part in self.space]
        if not keys:
            raise RecipeError("a search needs at least one setting to vary, such as --vary server.momentum=0..0.9.")
        if len(set(keys)) < len(keys) or "seed" in keys:
            raise RecipeError(f"a setting is varied once, and seed by --seeds; got {', '.join(keys)}.")
        if self.seeds < 1:
            raise RecipeError(f"--seeds is at least 1, got {self.seeds}.")

    @property
    def column(self) -> Column:
        """The number that is judged."""
        return METRICS[self.metric]

    @property
    def first_experiment(self) -> Experiment:
        """The experiment with the first value of everything that varies."""
        return self.experiment({part.key: part.ends[0] for part in self.space})

    def experiment(self, settings: Mapping[str, str], seed: int = 0) -> Experiment:
        """The experiment of a trial, with its seed that many above the recipe's."""
        written = [*self.overrides, *(f"{key}={value}" for key, value in settings.items())]
        first = load_recipe(self.recipe, written).seed
        return load_recipe(self.recipe, [*written, f"seed={first + seed}"])

    def try_out(self) -> None:
        """Find mistakes before anything is trained: build the experiment of each end of each range.

        Raises:
            ValueError: a recipe cannot be understood, its data are missing, or its parts do not fit together.
        """
        first = {part.key: part.ends[0] for part in self.space}
        ends = [{**first, part.key: end} for part in self.space for end in part.ends]
        try_out(self.experiment(settings) for settings in ends)

    def description(self) -> dict[str, Any]:
        """What a study and the search that goes on with it have to agree on."""
        return {
            "recipe": to_table(self.first_experiment),
            "vary": [str(part) for part in self.space],
            "metric": self.metric,
            "seeds": self.seeds,
            "prune": self.prune,
        }
