"""Answers of `decollapse theory`: run an experiment, print its table or JSON, write its pictures."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich import box
from rich.console import Console
from rich.table import Table

from decollapse.pictures import require_matplotlib, save_picture
from decollapse.theory.checks import rate_errors
from decollapse.theory.plots import averaging_picture, growth_picture, label, push_picture, rank_picture
from decollapse.theory.study import ALPHAS, Averaging, Growth, Setting, averaging_round, grow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Question = Literal["growth", "averaging", "rates"]
Row = Mapping[str, float | str]
Pictures = Mapping[str, Callable[[], "Figure"]]
"""Drawn when they are written: they need matplotlib, and the numbers do not."""

AVERAGED_ALPHAS: tuple[float | None, ...] = (0.01, 0.1, None)
NUM_CLIENTS, CLIENT_EXAMPLES, UNEQUAL = 10, 200, 16.0
"""Of the averaging step: the largest of the unequal clients holds sixteen times the smallest's examples."""

HEADINGS = {
    "prior": "class prior",
    "rank_g": "rank of G",
    "strong_g": "above a tenth",
    "entropy_rank": "entropy rank of Π",
    "entropy_rank_at_start": "at the start",
    "grown_client": "grown: a client",
    "grown_averaged_features": "averaged features",
    "grown_averaged": "averaged weights",
    "grown_pooled": "pooled data",
    "largest_client": "largest sigma: a client",
    "largest_averaged": "averaged weights",
    "largest_pooled": "pooled data",
    "num_hidden": "hidden layers",
    "time": "N t",
    "exact": "exact G",
    "class_means": "class means",
    "squared": "sigma^2 in the root",
}
"""Of the table; a column that is not here is headed by its own name."""


TITLES = {
    "growth": "Singular values of the features' linear map over time",
    "rank": "What has grown, and the entropy rank, over time",
    "push": "Singular values of G at the start and of the features' linear map at the end",
    "averaging": "Singular values of the clients' maps and of their average",
}
"""Of the pictures."""


def answer(question: Question, setting: Setting, *, seeds: int, out: Path | None, as_json: bool) -> None:
    """Print the answer on stdout, and with `out` write its pictures into that folder.

    Raises ValueError for fewer than one seed, for settings that the question has no use for, or for pictures without
    matplotlib.
    """
    if seeds < 1:
        raise ValueError(f"the number of seeds must be at least 1, got {seeds}.")
    if out is not None:
        require_matplotlib()
    rows, pictures = {"growth": _growth, "averaging": _averaging, "rates": _rates}[question](setting, seeds)
    if as_json:
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
    else:
        _print(rows)
    if out is not None:
        for path in _write(pictures, out):
            sys.stderr.write(f"{path}\n")


def _growth(setting: Setting, seeds: int) -> tuple[list[Row], Pictures]:
    """One client alone, for each alpha."""
    results: list[Growth] = []
    rows: list[Row] = []
    for alpha in ALPHAS:
        began = time.perf_counter()
        found = [grow(setting, alpha, seed=seed) for seed in range(seeds)]
        measures: dict[str, Callable[[Growth], float]] = {
            "classes": lambda one: one.classes,
            "rank_g": lambda one: one.rank_g,
            "strong_g": lambda one: one.strong_g,
            "grown": lambda one: one.grown[-1],
            "entropy_rank": lambda one: one.entropy_rank[-1],
            "entropy_rank_at_start": lambda one: one.entropy_rank[0],
        }
        means = {name: sum(map(measure, found)) / seeds for name, measure in measures.items()}
        rows.append({"prior": label(alpha), **means, "seeds": seeds, "seconds": time.perf_counter() - began})
        results += found
    return rows, {
        "growth": lambda: growth_picture(results),
        "rank": lambda: rank_picture(results),
        "push": lambda: push_picture(results),
    }


def _averaging(setting: Setting, seeds: int) -> tuple[list[Row], Pictures]:
    """One round of ten clients, of one size and of unequal sizes."""
    results: list[Averaging] = []
    rows: list[Row] = []
    for alpha, ratio in ((alpha, ratio) for alpha in AVERAGED_ALPHAS for ratio in (1.0, UNEQUAL)):
        began = time.perf_counter()
        small = replace(setting, num_examples=CLIENT_EXAMPLES)
        found = [
            averaging_round(small, alpha, seed=seed, num_clients=NUM_CLIENTS, largest_to_smallest=ratio)
            for seed in range(seeds)
        ]
        measures: dict[str, Callable[[Averaging], float]] = {
            "grown_client": lambda one: one.grown(one.clients),
            "grown_averaged_features": lambda one: one.grown(one.mean_features),
            "grown_averaged": lambda one: one.grown(one.averaged),
            "grown_pooled": lambda one: one.grown(one.pooled),
            "largest_client": lambda one: float(one.clients[:, 0].mean()),
            "largest_averaged": lambda one: float(one.averaged[0]),
            "largest_pooled": lambda one: float(one.pooled[0]),
        }
        means = {name: sum(map(measure, found)) / seeds for name, measure in measures.items()}
        which = {"prior": label(alpha), "sizes": "equal" if ratio == 1 else f"1 to {ratio:g}"}
        rows.append(which | means | {"seeds": seeds, "seconds": time.perf_counter() - began})
        results += found
    return rows, {"averaging": lambda: averaging_picture(results)}


def _rates(setting: Setting, seeds: int) -> tuple[list[Row], Pictures]:
    """The theorem against finite differences: the largest error of any seed."""
    if setting != Setting():
        raise ValueError("the check of the rates has a setting of its own; leave --layers, --start and --horizon out.")
    rows: list[Row] = []
    for num_hidden, M in ((num_hidden, M) for num_hidden in (1, 2, 3) for M in (0.0, 0.5)):
        began = time.perf_counter()
        found = [rate_errors(num_hidden=num_hidden, M=M, seed=seed, times=(0.0, 4.0, 16.0)) for seed in range(seeds)]
        worst = [
            {name: max(asdict(one)[name] for one in same) for name in asdict(same[0])}
            for same in zip(*found, strict=True)
        ]
        seconds = (time.perf_counter() - began) / len(worst)
        rows += [row | {"seeds": seeds, "seconds": seconds} for row in worst]
    return rows, {}


def _write(pictures: Pictures, folder: Path) -> Iterator[Path]:
    for name, draw in pictures.items():
        yield from save_picture(draw, folder / f"theory_{name}", title=TITLES[name])


def _print(rows: Sequence[Row]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, cell in rows[0].items():
        table.add_column(HEADINGS.get(name, name), justify="left" if isinstance(cell, str) else "right")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, str) else f"{cell:.3g}" for cell in row.values()))
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)
