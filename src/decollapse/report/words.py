"""The sentences of the report: title, facts, summary and notes, numbers without interpretation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from decollapse.report.labels import algorithm, differences, flatten, phrase
from decollapse.report.summary import COLUMNS, Group, Statistic, SummaryRow
from decollapse.report.view import RunView, is_finite, lookup

FACTS = (
    ("partition", "name"), ("partition", "alpha"), ("num_clients",), ("cohort_size",), ("model", "name"),
    ("client", "epochs"), ("client", "batch_size"), ("rounds",),
)  # fmt: skip


def title(groups: Sequence[Group]) -> str:
    """What the page is about: the settings by name where they are few, by number where they are many."""
    labels = [group.label for group in groups]
    names = _listed(labels) if len(labels) <= 3 and sum(map(len, labels)) <= 70 else f"{len(labels)} settings"
    data = {str(lookup(group.runs[0].recipe, "data", "name") or "") for group in groups}
    name = data.pop() if len(data) == 1 else ""
    return f"{names} on {name}" if name else names


def facts(groups: Sequence[Group]) -> list[str]:
    """What all groups have in common, in a few words each."""
    recipes = [group.runs[0].recipe for group in groups]
    differing = set(differences(recipes))
    flat = flatten(recipes[0])
    common = [phrase(path, flat[path]) for path in FACTS if flat.get(path) is not None and path not in differing]
    names = {algorithm(recipe) for recipe in recipes}
    seeds = sorted({run.seed for group in groups for run in group.runs if run.seed is not None})
    widths = {run.num_features for group in groups for run in group.runs} - {None}
    common += [f"{widths.pop()} features"] if len(widths) == 1 else []
    common += [f"{'seed' if len(seeds) == 1 else 'seeds'} {_listed([str(seed) for seed in seeds])}"] if seeds else []
    return ([*names] if len(names) == 1 else []) + common


def summary(rows: Sequence[SummaryRow], width: int | None) -> str:
    """Final accuracy and effective rank in one sentence; for more than three settings the lowest and the highest."""
    known = [row for row in rows if row.values["accuracy"] is not None]
    if not known:
        return "No run has been evaluated yet."
    if len(known) <= 3:
        return f"{_sentence('; '.join(_clause(row, width) for row in known))} {_how(known)}"
    parts = [_range(known, "accuracy", "test accuracy", " %"), _range(known, "effective_rank", "effective rank", "")]
    return f"{_sentence('; '.join(part for part in parts if part))} {_how(known)}"


def undiagnosed(missing: Sequence[Group], groups: Sequence[Group]) -> str:
    """How to get a diagnosis for those of `groups` that have none; empty where there are no such groups."""
    if not missing:
        return ""
    whose = "these runs" if len(missing) == len(groups) else _listed([group.label for group in missing])
    return f"No diagnosis of {whose}: run with -s evaluation.local_every=1 to have every round diagnosed."


def notes(groups: Sequence[Group]) -> list[str]:
    """What a reader has to know before trusting the numbers: unfinished, empty, repeated or diverged runs."""
    return [note for group in groups for run in group.runs for note in _run_notes(run, group)] + [
        f"{group.label}: seed {seed} appears {times} times, so the standard deviation is too small."
        for group in groups
        for seed, times in Counter(run.seed for run in group.runs).items()
        if times > 1
    ]


def _run_notes(run: RunView, group: Group) -> list[str]:
    if not run.records:
        return [f"{run.name} has no finished round yet; it is in no number and no chart."]
    found = []
    if not run.finished:
        counted = "" if run in group.compared else " It is drawn as a dotted line and is in no mean."
        found.append(f"{run.name} is unfinished: {run.last_round} of {run.num_rounds} rounds.{counted}")
    tested = [record for record in run.records if record.get("evaluation")]
    diverged = [record["round"] for record in tested if not is_finite(record["evaluation"].get("loss"))]
    found += [f"{run.name}: the loss is not a finite number after round {diverged[0]}."] if diverged else []
    rejected = sum(len(record.get("rejected") or ()) for record in run.records)
    found += [f"{run.name}: {rejected} client {_plural('update', rejected)} rejected; see below."] if rejected else []
    return found


def _clause(row: SummaryRow, width: int | None) -> str:
    accuracy, rank = row.values["accuracy"], row.values["effective_rank"]
    of = f" of {width}" if width else ""
    words = f"{row.label}: {COLUMNS[0].show(accuracy)} % test accuracy"
    return words + (f", effective rank {COLUMNS[2].show(rank)}{of}" if rank else "")


def _range(rows: Sequence[SummaryRow], key: str, name: str, unit: str) -> str:
    column = next(column for column in COLUMNS if column.key == key)
    pairs: list[tuple[Statistic, str]] = [(found, row.label) for row in rows if (found := row.values[key]) is not None]
    if not pairs:
        return ""
    (low, low_label), (high, high_label) = (pick(pairs, key=lambda pair: pair[0].mean) for pick in (min, max))
    return f"{name} from {column.show(low)}{unit} ({low_label}) to {column.show(high)}{unit} ({high_label})"


def _how(rows: Sequence[SummaryRow]) -> str:
    """Which rounds and how many seeds the numbers are of."""
    rounds, seeds = {row.round for row in rows}, {row.num_runs for row in rows}
    at = f"After round {rounds.pop()}" if len(rounds) == 1 else "At the rounds given in the table"
    if seeds == {1}:
        return f"{at}, one seed each."
    over = f"{seeds.pop()} seeds" if len(seeds) == 1 else "seeds"
    return f"{at}, mean ± standard deviation over {over}."


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _listed(words: Sequence[str]) -> str:
    """Words with commas and a last `and`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
