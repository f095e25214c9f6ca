"""Which run goes where: a panel for each algorithm, in it a curve for each way the data were dealt."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from decollapse.report.labels import differences, label
from decollapse.report.summary import group_runs
from decollapse.report.view import RunView, is_finite, lookup

ALPHA = "\N{GREEK SMALL LETTER ALPHA}"
UNKNOWN = sys.float_info.max
"""An evenness between every alpha and IID."""


@dataclass(frozen=True)
class Curve:
    """Runs that differ in their seed alone.

    Attributes:
        name: how the data were dealt, such as "α = 0.05" or "IID"; or what else sets these runs apart.
        runs: ordered by seed; the last round of each has a spectrum.
        index: of the colour: curves of one name have one, from the most unequal clients to the equal ones.
    """

    name: str
    runs: tuple[RunView, ...]
    index: int


@dataclass(frozen=True)
class Panel:
    """The curves of one algorithm.

    Attributes:
        title: what sets it apart from the other panels.
        curves: from the most unequal clients to the equal ones.
    """

    title: str
    curves: tuple[Curve, ...]


def panels_of(runs: Sequence[RunView]) -> list[Panel]:
    """Panels in the order their first run came; where all data were dealt alike, one panel with a curve for each."""
    dealt = {_key(run): _dealt(run) for run in runs}
    if len(dealt) < 2:
        groups = group_runs(runs)
        return [Panel("", tuple(Curve(group.label, group.runs, at) for at, group in enumerate(groups)))] if runs else []
    keys = sorted(dealt, key=lambda key: _evenness(dealt[key]))
    names = dict(zip(keys, _names([dealt[key] for key in keys]), strict=True))
    by_folder = {run.folder: run for run in runs}
    panels = []
    for group in group_runs([_without_partition(run) for run in runs]):
        found = [by_folder[run.folder] for run in group.runs]
        curves = [
            Curve(names[key], same, at)
            for at, key in enumerate(keys)
            if (same := tuple(run for run in found if _key(run) == key))
        ]
        panels.append(Panel(group.label, tuple(curves)))
    return panels


def usable(runs: Sequence[RunView]) -> tuple[list[RunView], list[str]]:
    """The runs that can be drawn, and a sentence for each that is left out."""
    reasons = [_reason(run) for run in runs]
    kept = [run for run, reason in zip(runs, reasons, strict=True) if not reason]
    return kept, [f"{run.folder} is left out: {reason}." for run, reason in zip(runs, reasons, strict=True) if reason]


def without_locals(panels: Sequence[Panel]) -> list[str]:
    """A sentence for each run whose local models were not measured in its last round."""
    runs = [run for panel in panels for curve in panel.curves for run in curve.runs]
    return [
        f"{run.folder} is not in the figure of local models: they were not measured in its last round; "
        "run it with -s evaluation.local_every=1."
        for run in runs
        if not has_locals(run)
    ]


def has_locals(run: RunView) -> bool:
    """Whether the local models of the last round were measured."""
    return run.local_spectra is not None and run.local_spectra.round == run.last_round


def _reason(run: RunView) -> str:
    """Why a run cannot be drawn; empty if it can."""
    if not run.finished:
        return f"it is unfinished, {run.last_round} of {run.num_rounds} rounds; `decollapse resume` goes on with it"
    if not is_finite(lookup(run.records[-1], "evaluation", "loss")):
        return "it has diverged, the loss of its last round is not a finite number"
    if run.spectra is None or run.spectra.round != run.last_round:
        return "its last round has no spectrum"
    return ""


def _dealt(run: RunView) -> Mapping[str, Any]:
    partition = run.recipe.get("partition")
    return partition if isinstance(partition, Mapping) else {"name": partition}


def _key(run: RunView) -> str:
    return repr(sorted(_dealt(run).items()))


def _without_partition(run: RunView) -> RunView:
    recipe = {key: value for key, value in run.recipe.items() if key != "partition"}
    return replace(run, description={**run.description, "recipe": recipe})


def _evenness(partition: Mapping[str, Any]) -> float:
    """Larger for clients that are more alike: alpha, and infinity for IID; unknown in between.

    >>> sorted([{"name": "iid"}, {"alpha": 0.5}, {"name": "shards"}, {"alpha": 0.05}], key=_evenness)
    [{'alpha': 0.05}, {'alpha': 0.5}, {'name': 'shards'}, {'name': 'iid'}]
    """
    if partition.get("name") == "iid":
        return math.inf
    alpha = partition.get("alpha", math.nan)
    return float(alpha) if is_finite(alpha) else UNKNOWN


def _names(partitions: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to call each: by its alpha where that is enough.

    >>> _names([{"name": "dirichlet", "alpha": 0.05}, {"name": "iid"}])
    ['α = 0.05', 'IID']
    """
    short = [
        f"{ALPHA} = {partition['alpha']:g}" if is_finite(partition.get("alpha")) else "" for partition in partitions
    ]
    recipes = [{"partition": partition} for partition in partitions]
    differing = differences(recipes)
    times = Counter(short)
    return [
        name if name and times[name] == 1 else label(recipe, differing)
        for name, recipe in zip(short, recipes, strict=True)
    ]
