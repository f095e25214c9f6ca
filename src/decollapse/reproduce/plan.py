"""From what a person asks for to a grid that can be run: preset, data, seeds; and a table of what there is to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from decollapse.data import Dataset
from decollapse.experiment import Prepared, prepare
from decollapse.reproduce.grid import Choice, Grid, Run, base_experiment, make_grid
from decollapse.reproduce.presets import load_preset
from decollapse.reproduce.protocol import SCALES, data_entries
from decollapse.schema import RecipeError, nearest


def chosen(
    name: str,
    *,
    dataset: str | None,
    scale: str | None,
    seeds: str,
    data: str | None,
    rows: Sequence[str],
    columns: Sequence[str],
    overrides: Sequence[str],
) -> Choice:
    """What a person asks for, as they wrote it.

    Raises:
        ValueError: it is not there; the message names the nearest that is.
    """
    preset = load_preset(name)
    dataset = dataset or preset.datasets[0]
    if dataset not in (known := dict.fromkeys(preset.datasets)):
        raise RecipeError(f"{name} is not made of a data set {dataset!r}{nearest(dataset, known)}")
    if scale is not None and scale not in SCALES:
        raise RecipeError(f"there is no scale {scale!r}{nearest(scale, dict.fromkeys(SCALES))}")
    return Choice(
        preset=preset,
        dataset=dataset,
        scale=next(each for each in SCALES if each == (scale or "small")),
        data=data or data_entries()[dataset].data,
        seeds=seed_list(seeds),
        rows=labels(rows),
        columns=labels(columns),
        overrides=tuple(overrides),
    )


def labels(given: Sequence[str]) -> tuple[str, ...]:
    """Labels, separated by commas or given one by one.

    >>> labels(["α 0.05,IID", "α 0.5"])
    ('α 0.05', 'IID', 'α 0.5')
    """
    return tuple(label.strip() for text in given for label in text.split(","))


def seed_list(text: str) -> tuple[int, ...]:
    """How many seeds, from 0 on; or a list of them.

    >>> seed_list("3"), seed_list("0,5"), seed_list("7,")
    ((0, 1, 2), (0, 5), (7,))
    """
    try:
        numbers = tuple(int(number) for number in text.strip().strip(",").split(","))
    except ValueError:
        raise RecipeError(f"--seeds takes how many, such as 3, or a list, such as 0,1,2; got {text!r}.") from None
    return numbers if "," in text else tuple(range(numbers[0]))


@dataclass(frozen=True, eq=False)
class Plan:
    """A grid with its data, dealt: ready to be run.

    Attributes:
        grid: all runs.
        dataset: their data, in shared memory.
        prepared: each run with its data dealt.
    """

    grid: Grid
    dataset: Dataset = field(repr=False)
    prepared: dict[Run, Prepared] = field(repr=False)


def make_plan(choice: Choice) -> Plan:
    """Load the data, and try out every cell: what cannot work shows before anything is trained.

    Raises:
        ValueError: data are missing, are not what they should be, or cannot be dealt; a setting does not fit.
    """
    experiment = base_experiment(choice)
    entry = data_entries()[choice.dataset]
    check_there(choice)
    dataset = experiment.data.load()
    entry.check(choice.dataset, dataset)
    grid = make_grid(choice, dataset)
    prepared = {}
    for run in grid.runs:
        try:
            prepared[run] = prepare(run.experiment, dataset)
            if run.experiment.seed == choice.seeds[0]:
                prepared[run].check()
        except ValueError as error:
            raise RecipeError(f"{choice.preset.name}, {run.title}: {error}") from None
    return Plan(grid, dataset.share_memory(), prepared)


def check_there(choice: Choice) -> None:
    """Raise ValueError, saying how to get them, where the data are not."""
    kind, _, location = choice.data.partition(":")
    folder = Path(location).expanduser()
    missing = [folder / name for name in ("train.npz", "test.npz") if not (folder / name).is_file()]
    entry = data_entries()[choice.dataset]
    if kind == "npz" and missing:
        raise RecipeError(
            f"{choice.preset.name} needs {entry.title}, and there is no {missing[0]}: {entry.get}, write train.npz and "
            "test.npz as docs/reproduce.md shows, or say where they are with --data npz:FOLDER."
        )
