"""A study: one recipe, several values of some settings, a run folder for every combination."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from decollapse.config import RecipeError, load_recipe, parse_value
from decollapse.data import Dataset, DataSource
from decollapse.experiment import Experiment, prepare
from decollapse.runs import RunFolder


def create_runs(
    recipe: Path | None,
    overrides: Sequence[str] = (),
    sweeps: Sequence[str] = (),
    out: Path | None = None,
    *,
    reuse: bool = False,
) -> list[RunFolder]:
    """Make the folders of a run or of a study; nothing is trained yet.

    Every recipe is tried before the first folder is made: the data loaded and dealt, the model built.

    Args:
        recipe: a TOML file, or None for the defaults.
        overrides: `key=value`, as in `load_recipe`.
        sweeps: `key=a,b,c`; every combination of several sweeps is a run of its own.
        out: the run's folder, or the study's; None takes a new one below `runs`.
        reuse: open folders that hold these very runs, instead of refusing them.

    Raises:
        RecipeError: the recipe, an override or a sweep cannot be understood.
        RunFolderError: a folder holds a run already.
    """
    keys = [sweep_values(sweep)[0][0] for sweep in sweeps]
    if len(set(keys)) < len(keys):
        raise RecipeError(f"a setting is swept once, with all its values; got {', '.join(keys)}.")
    combinations = list(itertools.product(*(sweep_values(sweep) for sweep in sweeps)))
    experiments: dict[str, Experiment] = {}
    for combination in combinations:
        settings = [f"{key}={text}" for key, text in combination]
        experiments[run_name(combination)] = load_recipe(recipe, [*overrides, *settings])
    try_out(experiments.values())
    out = out or _unused(Path("runs") / (recipe.stem if recipe else "run"))
    if not sweeps:
        return [RunFolder.create(out, experiments[""], reuse=reuse)]
    if (out / "run.json").exists():
        raise RecipeError(f"{out} holds a single run; give the study another --out.")
    return [
        RunFolder.create(out / name, experiment, name=name, reuse=reuse) for name, experiment in experiments.items()
    ]


def try_out(experiments: Iterable[Experiment]) -> None:
    """Load and deal the data of each experiment, build its model and try its parts, so that mistakes show now."""
    datasets: dict[DataSource, Dataset] = {}
    for experiment in experiments:
        if experiment.data not in datasets:
            datasets = {experiment.data: experiment.data.load()}
        prepare(experiment, datasets[experiment.data]).check()


def sweep_values(sweep: str) -> list[tuple[str, str]]:
    """The (key, value) pairs of one sweep.

    >>> sweep_values("client.epochs=1,5")
    [('client.epochs', '1'), ('client.epochs', '5')]
    >>> sweep_values("model.hidden=[64],[128,64]")
    [('model.hidden', '[64]'), ('model.hidden', '[128, 64]')]
    """
    key, equals, text = sweep.partition("=")
    if not equals or not key.strip() or not text.strip():
        raise RecipeError(f"a sweep is written key=a,b,c, such as seed=0,1,2; got {sweep!r}.")
    try:
        values = [_written(value) for value in tomllib.loads(f"values = [{text}]")["values"]]
    except tomllib.TOMLDecodeError:
        values = [value.strip() for value in text.split(",")]
    if len(set(values)) < len(values):
        raise RecipeError(f"the sweep {sweep!r} has a value twice.")
    return [(key.strip(), value) for value in values]


def run_name(combination: Sequence[tuple[str, str]]) -> str:
    """A folder's name: the last word of each key, with its value.

    >>> run_name([("client.objective.feddecorr.beta", "0.1"), ("seed", "0")])
    'beta=0.1,seed=0'
    """
    lasts = [key.rpartition(".")[2] for key, _ in combination]
    words = [last if lasts.count(last) == 1 else key for last, (key, _) in zip(lasts, combination, strict=True)]
    return ",".join(f"{word}={value}" for word, (_, value) in zip(words, combination, strict=True)).replace("/", "_")


def _written(value: Any) -> str:
    """A value as it would be written in TOML, such that `parse_value` gives it back."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if parse_value(text) != value:
        raise RecipeError(f"a sweep takes numbers, words and lists of them; {value!r} cannot be written as one.")
    return text


def _unused(path: Path) -> Path:
    """`path`, or the first of `path-2`, `path-3`, … that does not exist."""
    candidates = itertools.chain([path], (path.with_name(f"{path.name}-{number}") for number in itertools.count(2)))
    return next(candidate for candidate in candidates if not candidate.exists())
