"""Which setting another one is compared with, and what it gains: seed by seed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decollapse.report.comparability import by_seed, obstacle, shares_conditions
from decollapse.report.labels import METHODS, OBJECTIVE, TERMS, active_terms, algorithm, differences, flatten
from decollapse.report.paired import Paired
from decollapse.report.summary import Column, Group, unseeded

NAMING = {"cross_entropy", *(name for name, (word, _) in TERMS.items() if word in METHODS)}
"""Terms that make an algorithm another one; the rest regularise whichever they are added to."""


@dataclass(frozen=True)
class Gain:
    """What a setting gains over its baseline.

    Attributes:
        baseline: the label of the setting it is compared with.
        seeds: those of the pairs, in order.
        paired: setting minus baseline, in the unit of the column.
    """

    baseline: str
    seeds: tuple[int | None, ...]
    paired: Paired


@dataclass(frozen=True)
class Gains:
    """The gains of all settings that have a baseline.

    Attributes:
        column: which number is compared.
        of: by the setting's label.
        notes: what a reader has to know, a sentence each: pairs that could not be made, seeds without a partner.
    """

    column: Column
    of: Mapping[str, Gain]
    notes: tuple[str, ...]


def gains(groups: Sequence[Group], column: Column) -> Gains:
    """Compare each setting with the one that lacks FedDecorr, or whatever regularisers it has, all else being equal.

    Settings without such a baseline have no gain; where runs are not comparable, a note says why.
    """
    pairs = {group.label: (group, found) for group in groups if (found := _plain(group, groups))}
    obstacles = {label: obstacle(*pair) for label, pair in pairs.items()}
    comparable = [pair for label, pair in pairs.items() if obstacles[label] is None]
    return _gains(comparable, column, [reason for reason in obstacles.values() if reason])


def gains_over(baselines: Sequence[Group], groups: Sequence[Group], column: Column) -> Gains:
    """Compare each setting that is no baseline with the baseline that is most like it.

    Raises:
        ValueError: a setting and its baseline are not comparable, or two baselines are equally like it.
    """
    names = {group.label for group in baselines}
    pairs = [(group, _nearest(group, baselines)) for group in groups if group.label not in names]
    for group, baseline in pairs:
        if reason := obstacle(group, baseline):
            raise ValueError(reason)
    return _gains(pairs, column, [])


def named(groups: Sequence[Group], name: str, folders: Collection[Path] = ()) -> list[Group]:
    """The settings that `name` means: those with that label, or else that algorithm, or else with runs in `folders`.

    Raises:
        ValueError: there is none.
    """
    inside = {folder.resolve() for folder in folders}
    found = (
        [group for group in groups if group.label == name]
        or [group for group in groups if algorithm(group.runs[0].recipe) == name]
        or [group for group in groups if any(run.folder.resolve() in inside for run in group.runs)]
    )
    if not found:
        known = ", ".join(repr(group.label) for group in groups)
        raise ValueError(f"there is no setting {name!r} to compare with; name one of {known}, or a run folder.")
    return found


def _gains(pairs: Sequence[tuple[Group, Group]], column: Column, notes: Sequence[str]) -> Gains:
    found: dict[str, Gain] = {}
    sentences = list(notes)
    for group, baseline in pairs:
        differences_by_seed = _differences(group, baseline, column)
        paired = Paired.of(list(differences_by_seed.values()), higher_is_better=column.higher_is_better)
        if paired is None:
            sentences.append(f"{group.label!r} and {baseline.label!r} have recorded no {column.title} in common.")
            continue
        found[group.label] = Gain(baseline.label, tuple(differences_by_seed), paired)
        sentences += _caveats(group, baseline, paired)
    return Gains(column, found, tuple(sentences))


def _differences(group: Group, baseline: Group, column: Column) -> dict[int | None, float]:
    ours, theirs = by_seed(group), by_seed(baseline)
    values = {
        seed: (column.of(ours[seed], group.round), column.of(theirs[seed], group.round))
        for seed in ours
        if seed in theirs
    }
    return {seed: a - b for seed, (a, b) in values.items() if a is not None and b is not None}


def _caveats(group: Group, baseline: Group, paired: Paired) -> list[str]:
    sentences = []
    left = len(group.compared) + len(baseline.compared) - 2 * paired.num
    if left:
        sentences.append(f"{group.label!r} and {baseline.label!r} share {paired.num} seeds; {left} runs have no pair.")
    if paired.interval is None:
        sentences.append(f"One pair of {group.label!r} and {baseline.label!r} gives no interval; run more seeds.")
    return sentences


def _plain(group: Group, groups: Sequence[Group]) -> Group | None:
    """The setting that is `group` without its regularisers, or the one with the fewest of them."""
    candidates = [other for other in groups if _extends(unseeded(group.runs[0]), unseeded(other.runs[0]))]
    return min(candidates, key=lambda other: len(active_terms(other.runs[0].recipe)), default=None)


def _extends(recipe: Mapping[str, Any], plain: Mapping[str, Any]) -> bool:
    """Whether `recipe` is `plain` with further terms, none of which gives an algorithm its name."""
    ours, theirs = active_terms(recipe), active_terms(plain)
    further = ours.keys() - theirs.keys()
    same_terms = all(ours.get(name) == settings for name, settings in theirs.items())
    return bool(further) and not further & NAMING and same_terms and _rest(recipe) == _rest(plain)


def _rest(recipe: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    """Every setting but those of the objective's terms."""
    return {path: value for path, value in flatten(recipe).items() if path[: len(OBJECTIVE)] != OBJECTIVE}


def _nearest(group: Group, baselines: Sequence[Group]) -> Group:
    """The baseline under the same conditions that differs in the fewest settings; any, where conditions differ."""
    recipes = [group.runs[0].recipe]
    candidates = [other for other in baselines if shares_conditions(group, other)] or list(baselines[:1])
    distances = [len(differences([*recipes, other.runs[0].recipe])) for other in candidates]
    nearest = [other for other, distance in zip(candidates, distances, strict=True) if distance == min(distances)]
    if len(nearest) > 1:
        labels = " or ".join(repr(other.label) for other in nearest)
        raise ValueError(f"{group.label!r} could be compared with {labels}; name one of them.")
    return nearest[0]
