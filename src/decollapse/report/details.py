"""The tables below the charts: clients, rejected updates, settings, times."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from decollapse.report.baselines import gains
from decollapse.report.charts import Stroke, stroke
from decollapse.report.comparison import METRICS, paired_table
from decollapse.report.labels import flatten
from decollapse.report.markup import folded, inline, swatch, table
from decollapse.report.summary import (
    COLUMNS,
    HEADINGS,
    MISSING,
    Group,
    SummaryRow,
    columns_by_value,
    statistic_of,
)
from decollapse.report.view import Record, RunView, is_finite, lookup

MAX_CLIENTS = 200
"""Rows of a table of clients; a federation of ten thousand is not read line by line."""


def looks(groups: Sequence[Group]) -> list[tuple[str, Stroke]]:
    """Each group by its label, with the look of its lines."""
    return [(group.label, stroke(index)) for index, group in enumerate(groups)]


def comparison(rows: Sequence[SummaryRow]) -> str:
    """The table `decollapse compare` prints, one line a setting."""
    marks = [swatch(stroke(index)) for index in range(len(rows))]
    caption = (
        "Mean ± sample standard deviation over seeds, at the round given. Effective rank, participation ratio: of "
    )
    caption += "the covariance of the global model's features on the test set; corr.: of their correlation."
    return table(HEADINGS, [row.cells() for row in rows], caption=caption, marks=marks)


def paired(groups: Sequence[Group]) -> str:
    """What each setting gains over the same without its regularisers, in accuracy and effective rank; or nothing."""
    marks = {group.label: swatch(stroke(index)) for index, group in enumerate(groups)}
    found = [gains(groups, METRICS[key]) for key in ("accuracy", "effective_rank")]
    caption = (
        "Differences between runs of the same seed, which share split, cohorts and initial weights: their mean, its "
        "interval by Student's t, and in how many pairs the setting is better."
    )
    captions = ["", " ".join([caption, *found[0].notes])]
    return "".join(
        table(
            [heading.title for heading in shown.headings],
            [[cell.text for cell in row] for row in shown.rows],
            caption=words,
            marks=[marks[label] for label in gained.of],
        )
        for gained, words in zip(found, captions, strict=True)
        if (shown := paired_table(gained)).rows
    )


def cards(rows: Sequence[SummaryRow]) -> str:
    """The headline numbers of each setting."""
    accuracy, _, rank, _, _, dead, _ = COLUMNS
    shown = ((accuracy, "test accuracy", "&thinsp;%"), (rank, "effective rank", ""), (dead, "dead dims", ""))
    boxes = []
    for index, row in enumerate(rows):
        numbers = "".join(
            f"<div><dt>{name}</dt><dd>{escape(column.show(row.values[column.key]))}{unit}</dd></div>"
            for column, name, unit in shown
        )
        mark = swatch(stroke(index))
        boxes.append(f'<article class="card"><h3>{mark}{inline(row.label)}</h3><dl>{numbers}</dl></article>')
    return f'<div class="cards">{"".join(boxes)}</div>'


def rejected(groups: Sequence[Group]) -> str:
    """Every update the server refused, or nothing."""
    rows = [
        [run.name, str(record["round"]), str(entry.get("client", MISSING)), str(entry.get("reason", MISSING))]
        for group in groups
        for run in group.runs
        for record in run.records
        for entry in record.get("rejected") or ()
    ]
    return table(["run", "round", "client", "reason"], rows) if rows else ""


def by_column(groups: Sequence[Group]) -> str:
    """For each column of the data that tells test examples apart, accuracy at each value, a line a setting."""
    found = columns_by_value(run for group in groups for run in group.runs)
    marks = [swatch(stroke(index)) for index in range(len(groups))]
    return "".join(
        table(
            ["setting", *(column.title for column in columns)],
            [
                [group.label, *(column.show(statistic_of(column, group.compared, group.round)) for column in columns)]
                for group in groups
            ],
            caption=f"Test accuracy (%) by {name}, mean ± standard deviation over seeds; in brackets, test examples.",
            marks=marks,
        )
        for name, columns in found.items()
    )


def federated(groups: Sequence[Group]) -> str:
    """The spectra of the clients' own examples, one line a round that asked for them; or nothing."""
    headings = ["run", "round", "clients", "examples", "effective rank", "corr.", "missed", "kB a client", "seconds"]
    rows = [
        [run.name, str(record["round"]), *_federated_cells(record["federated"])]
        for group in groups
        for run in group.runs
        for record in run.records
        if record.get("federated")
    ]
    caption = (
        "Features of the cohort's own training examples under the global model, from sums that each client sent. "
        "Missed: the share of the variance that a sketch leaves out."
    )
    return table(headings, rows, caption=caption, sortable=True) if rows else ""


def _federated_cells(found: Record) -> list[str]:
    total, missing = lookup(found, "spectrum", "covariance", "total"), found.get("covariance_missing")
    share = 100 * missing / (missing + total) if is_finite(missing) and missing else 0.0
    ranks = [lookup(found, "spectrum", kind, "effective_rank") for kind in ("covariance", "correlation")]
    counts = [number(found.get("num_clients"), 0), number(lookup(found, "spectrum", "num_examples"), 0)]
    cost = [number(found["bytes_per_client"] / 1000, 1), number(found.get("seconds"), 2)]
    return [*counts, *(number(rank, 1) for rank in ranks), f"{share:.0f} %", *cost]


def clients(groups: Sequence[Group]) -> str:
    """Folded for each group, a table a run: what each client did in the last round."""
    return "".join(
        folded(group.label, "".join(tables))
        for group in groups
        if (tables := [_client_table(run) for run in group.runs if run.records and run.records[-1].get("clients")])
    )


def _client_table(run: RunView) -> str:
    entries = run.records[-1]["clients"]
    metrics = list(dict.fromkeys(name for entry in entries for name in entry.get("metrics") or ()))
    measured = any(entry.get("spectrum") for entry in entries)
    headings = ["client", "examples", "classes", "steps", *(name.replace("_", " ") for name in metrics)]
    headings += ["update norm", *(["effective rank"] if measured else []), "seconds"]
    rows = []
    for entry in entries[:MAX_CLIENTS]:
        values = [number(lookup(entry, "metrics", name), 3) for name in metrics]
        values.append(number(entry.get("delta_norm"), 3))
        values += [number(lookup(entry, "spectrum", "covariance", "effective_rank"), 1)] if measured else []
        counts = [number(entry.get(key), 0) for key in ("num_examples", "num_steps")]
        name = str(entry.get("client", MISSING))
        rows.append([name, counts[0], _num_classes(run, entry), counts[1], *values, number(entry.get("seconds"), 2)])
    left = len(entries) - len(rows)
    caption = f"{run.name}, round {run.last_round}. Terms of the objective and accuracy: means over the local steps."
    caption += f" {left} more clients are not listed." if left else ""
    return table(headings, rows, caption=caption, sortable=True)


def _num_classes(run: RunView, entry: Record) -> str:
    client = entry.get("client")
    if not isinstance(client, int) or not 0 <= client < len(run.class_counts):
        return MISSING
    return str(sum(count > 0 for count in run.class_counts[client]))


def settings(groups: Sequence[Group]) -> str:
    """Recipe, versions and machine of each group; what differs comes first, highlighted."""
    columns = [_settings_of(group) for group in groups]
    keys = dict.fromkeys(key for column in columns for key in column)
    rows = {key: [column.get(key, MISSING) for column in columns] for key in keys}
    order = sorted(rows, key=lambda key: len(set(rows[key])) == 1)
    body = []
    for key in order:
        cells, differs = rows[key], len(set(rows[key])) > 1
        shown = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        same = f'<td colspan="{len(cells)}">{escape(cells[0])}</td>'
        kind = ' class="differs"' if differs else ""
        body.append(f'<tr{kind}><th scope="row">{escape(key)}</th>{shown if differs else same}</tr>')
    heads = [f"{swatch(stroke(index))}{inline(group.label)}" for index, group in enumerate(groups)]
    head = "".join(f'<th scope="col">{words}</th>' for words in heads)
    return (
        f'<div class="table scroll"><table class="settings"><thead><tr><th scope="col">setting</th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _settings_of(group: Group) -> dict[str, str]:
    """Every setting of a group in words; the values of all its runs where they are not the same."""
    found: dict[str, list[str]] = {}
    for run in group.runs:
        facts = {name: run.description.get(name) or {} for name in ("versions", "machine")}
        parameters = lookup(run.description, "model", "parameters")
        size = {} if parameters is None else {"model.parameters": f"{parameters:,}"}
        recipe = {".".join(path): _value(value) for path, value in flatten({**run.recipe, **facts}).items()}
        for key, words in (recipe | size).items():
            found.setdefault(key, [])
            found[key] += [words] if words not in found[key] else []
    return {key: ", ".join(words) for key, words in found.items()}


def times(groups: Sequence[Group]) -> str:
    """When each run began, how long its rounds took and, of federations over a network, what a round sent."""
    sent = any(run.series("traffic", "to_clients") for group in groups for run in group.runs)
    rows = []
    for group in groups:
        for run in group.runs:
            reached = f"{run.last_round} of {run.num_rounds}"
            parts = [sum(value for _, value in run.series("seconds", part)) for part in ("clients", "evaluation")]
            started = _moment(run.description.get("started"))
            row = [run.name, group.label, started, reached, duration(run.seconds), *map(duration, parts)]
            rows.append(row + [_megabytes(run, way) for way in ("to_clients", "from_clients") if sent])
    ways = ["MB a round to clients", "MB a round back"] if sent else []
    return table(["run", "setting", "started", "rounds", "total", "clients", "evaluation", *ways], rows)


def _megabytes(run: RunView, way: str) -> str:
    """What a round sent one way, mean over rounds."""
    found = [value for _, value in run.series("traffic", way)]
    return number(statistics.fmean(found) / 1e6, 2) if found else MISSING


def duration(seconds: float) -> str:
    """A time span as a person says it.

    >>> duration(3.21), duration(75), duration(7384)
    ('3.2 s', '1 min 15 s', '2 h 3 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _value(value: Any) -> str:
    if isinstance(value, Mapping) and not value:
        return "yes"
    return MISSING if value is None else str(value)


def _moment(value: Any) -> str:
    """An ISO time to the minute.

    >>> _moment("2026-11-22T15:00:42+00:00")
    '2026-11-22 15:00 UTC'
    """
    words = str(value or MISSING)
    return f"{words[:10]} {words[11:16]} UTC" if words.endswith("+00:00") else words


def number(value: Any, decimals: int) -> str:
    """A number with as many digits after the point, or `MISSING`."""
    return f"{value:.{decimals}f}" if is_finite(value) else MISSING
