"""Whether two settings can be compared seed by seed: they may differ in the method, not in the conditions.

Conditions are the data, the split among the clients, how many there are and how many take part, and the number of
rounds. Everything else is the method: objective, local training, aggregator, server, model, precision.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from decollapse.report.labels import Recipe, differences, flatten
from decollapse.report.summary import Group
from decollapse.report.view import RunView, lookup

CONDITIONS = ("data", "partition", "num_clients", "cohort_size", "rounds")
"""Keys of a recipe that two settings have to share."""


def obstacle(group: Group, other: Group) -> str | None:
    """Why two settings cannot be paired, in a sentence that names both and the way out; None where they can.

    Recipes have to share their conditions; then runs of the same seed have to share what their folders say of data and
    split, and both settings the round their numbers are of. A seed may not come twice in one setting. Data are the same
    where their fingerprints are, whatever their names.
    """
    found = (
        _other_conditions(group, other)
        or _repeated_seed(group)
        or _repeated_seed(other)
        or _no_shared_seed(group, other)
        or _other_facts(group, other)
        or _other_round(group, other)
    )
    return f"{group.label!r} and {other.label!r} cannot be paired: {found}" if found else None


def shares_conditions(group: Group, other: Group) -> bool:
    """Whether the recipes of two settings differ in the method alone."""
    return _other_conditions(group, other) is None


def by_seed(group: Group) -> dict[int | None, RunView]:
    """The runs that enter a group's numbers, by their seeds."""
    return {run.seed: run for run in group.compared}


def _other_conditions(group: Group, other: Group) -> str | None:
    run, theirs = group.runs[0], other.runs[0]
    prints = {lookup(found.description, "fingerprint") for found in (run, theirs)}
    same_data = len(prints) == 1 and None not in prints
    keys = [key for key in CONDITIONS if not (key == "data" and same_data)]
    recipes = [_conditions(found, keys) for found in (run, theirs)]
    if not (paths := differences(recipes)):
        return None
    path = paths[0]
    ours, others = (flatten(recipe).get(path, "not set") for recipe in recipes)
    return (
        f"{'.'.join(path)} is {ours} in {run.folder} and {others} in {theirs.folder}; compare settings that differ in "
        "the method alone."
    )


def _conditions(run: RunView, keys: list[str]) -> Recipe:
    table: dict[str, Any] = {key: run.recipe[key] for key in keys if key in run.recipe}
    if "num_clients" in table:  # without a size, a cohort is everyone
        table["cohort_size"] = table.get("cohort_size") or table["num_clients"]
    return table


def _repeated_seed(group: Group) -> str | None:
    seed, times = Counter(run.seed for run in group.compared).most_common(1)[0] if group.compared else (None, 0)
    if times < 2:
        return None
    folders = " and ".join(str(run.folder) for run in group.compared if run.seed == seed)
    return f"{folders} are the same setting with the same seed {seed}, which counts once; leave one out."


def _no_shared_seed(group: Group, other: Group) -> str | None:
    if by_seed(group).keys() & by_seed(other).keys():
        return None
    return f"they have no seed in common, {_seeds(group)} there and {_seeds(other)} here; run both with the same seeds."


def _seeds(group: Group) -> str:
    return ", ".join(str(run.seed) for run in group.compared) or "none that has begun"


def _other_facts(group: Group, other: Group) -> str | None:
    ours, theirs = by_seed(group), by_seed(other)
    for seed in ours.keys() & theirs.keys():
        pair = ours[seed], theirs[seed]
        where = f"of {pair[0].folder} and {pair[1].folder}"
        if len({lookup(run.description, "fingerprint") for run in pair} - {None}) > 1:
            return f"the data {where} are not the same examples; run both on one copy of the data."
        if pair[0].class_counts != pair[1].class_counts:
            return f"the splits among the clients {where} are not the same; run both with one version of the package."
    return None


def _other_round(group: Group, other: Group) -> str | None:
    if group.round == other.round:
        return None
    return f"they stand at rounds {group.round} and {other.round}; finish both with `decollapse resume`, then compare."
