"""The tables of a comparison: a line for each setting, and what it gains over its baseline."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from decollapse.report.baselines import Gain, Gains, gains, gains_over
from decollapse.report.paired import CONFIDENCE, Paired
from decollapse.report.summary import COLUMNS, HEADINGS, MISSING, Column, Group, Statistic, SummaryRow, summary_rows
from decollapse.tables import WRITERS, Cell, Format, Heading, Scalar, Table, as_csv

MINUS = "\N{MINUS SIGN}"
METRICS = {column.key: column for column in COLUMNS}
"""What can be paired, by name."""

LEFT_TO_THE_REPORT = ("effective_rank_correlation", "participation_ratio")
"""Columns that a terminal of 80 characters and a printed page have no room for; CSV, JSON and the report have them."""

SUMMARY = tuple(
    Heading(key, title, align="left" if key == "setting" else "right")
    for key, title in zip(("setting", "runs", "round", *METRICS), HEADINGS, strict=True)
)


@dataclass(frozen=True)
class Comparison:
    """Settings, and what they gain.

    Attributes:
        rows: a line each.
        gains: of those that have a baseline.
    """

    rows: Sequence[SummaryRow]
    gains: Gains

    @classmethod
    def of(cls, groups: Sequence[Group], column: Column, *, baselines: Sequence[Group] | None = None) -> Comparison:
        """Compare settings.

        Args:
            groups: the settings.
            column: which number is paired.
            baselines: what all other settings are paired with; None pairs each with the same without its regularisers.

        Raises:
            ValueError: a setting cannot be compared with one of `baselines`.
        """
        found = gains(groups, column) if baselines is None else gains_over(baselines, groups, column)
        return cls(summary_rows(groups), found)

    def tables(self) -> list[Table]:
        """For people: the settings and, where there is any, what they gain."""
        summary = summary_table(self.rows)
        return [summary, paired_table(self.gains)] if self.gains.of else [replace(summary, notes=self.gains.notes)]

    def written(self, form: Format | Literal["json"]) -> str:
        """In one of the formats. CSV is one table, and like JSON it has every number."""
        if form == "json":
            return json.dumps([_as_json(row, self.gains) for row in self.rows], indent=1) + "\n"
        if form == "csv":
            return as_csv(joined_table(self.rows, self.gains))
        return "\n".join(WRITERS[form](table) for table in self.tables())


def summary_table(rows: Sequence[SummaryRow]) -> Table:
    """A line a setting: mean ± standard deviation, in as many columns as there is room for."""
    table = Table(SUMMARY, [_summary_cells(row) for row in rows])
    return table.select([heading.key for heading in SUMMARY if heading.key not in LEFT_TO_THE_REPORT])


def paired_table(found: Gains) -> Table:
    """A line for each setting that has a baseline: the mean of the differences within pairs of runs with one seed."""
    headings = [SUMMARY[0], *_paired_headings(found.column)]
    return Table(
        headings, [[Cell(label), *_paired_cells(gain, found.column)] for label, gain in found.of.items()], found.notes
    )


def joined_table(rows: Sequence[SummaryRow], found: Gains) -> Table:
    """Both in one, without leaving anything out."""
    headings = [*SUMMARY, *(_paired_headings(found.column) if found.of else [])]
    nothing = [Cell("")] * (len(headings) - len(SUMMARY))
    paired = {label: _paired_cells(gain, found.column) for label, gain in found.of.items()}
    return Table(headings, [[*_summary_cells(row), *paired.get(row.label, nothing)] for row in rows], found.notes)


def _summary_cells(row: SummaryRow) -> list[Cell]:
    counts: list[Mapping[str, Scalar]] = [
        {},
        {"": row.num_runs, "found": row.num_found},
        {"": row.round, "asked": row.num_rounds},
    ]
    numbers = [*counts, *(_numbers(row.values[key]) for key in METRICS)]
    return [Cell(text, values) for text, values in zip(row.cells(), numbers, strict=True)]


def _numbers(statistic: Statistic | None) -> dict[str, float | None]:
    return {"mean": None, "std": None} if statistic is None else {"mean": statistic.mean, "std": statistic.std}


def _paired_headings(column: Column) -> list[Heading]:
    unit = column.title.replace("(%)", "(points)")
    return [
        Heading("against", "against", align="left"),
        Heading("difference", f"Δ {unit}"),
        Heading("interval", f"{100 * CONFIDENCE:g} % interval"),
        Heading("wins", "wins"),
        Heading("p_value", "p (t-test)"),
        Heading("p_sign_flip", "p (sign flips)"),
    ]


def _paired_cells(gain: Gain, column: Column) -> list[Cell]:
    paired, digits = gain.paired, column.decimals
    low, high = paired.interval or (None, None)
    ends = [MISSING if end is None else signed(end, digits) for end in (low, high)]
    return [
        Cell(gain.baseline, {"": gain.baseline}),
        Cell(signed(paired.mean, digits), {"mean": paired.mean, "std": paired.std}),
        Cell(MISSING if low is None else " to ".join(ends), {"low": low, "high": high}),
        Cell(wins(paired), {"": paired.wins, "ties": paired.ties, "losses": paired.losses}),
        *(Cell(chance(p), {"": p}) for p in (paired.p_value, paired.p_sign_flip)),
    ]


def signed(value: float, decimals: int) -> str:
    """A difference with its sign; one that rounds to 0 has none.

    >>> signed(1.26, 1), signed(-0.04, 1)
    ('+1.3', '0.0')
    """
    text = f"{value:+.{decimals}f}"
    return text.replace("-", MINUS) if float(text) else text[1:]


def chance(p: float | None) -> str:
    """A p-value in two digits, or that it is small.

    >>> chance(0.0742), chance(0.25), chance(1e-5), chance(None)
    ('0.074', '0.25', '< 0.001', '–')
    """
    if p is None:
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def wins(paired: Paired) -> str:
    """How many of the pairs are better, and how many alike.

    >>> wins(Paired.of([1.0, 0.5, 0.0]))
    '2 of 3, 1 tie'
    """
    ties = f", {paired.ties} tie{'s' if paired.ties > 1 else ''}" if paired.ties else ""
    return f"{paired.wins} of {paired.num}{ties}"


def _as_json(row: SummaryRow, found: Gains) -> dict[str, Any]:
    gain = found.of.get(row.label)
    paired = gain and {
        "metric": found.column.key,
        "baseline": gain.baseline,
        "seeds": gain.seeds,
        **asdict(gain.paired),
    }
    return {**asdict(row), "paired": paired}
