"""What is gained within a seed: by what a row adds, and by each family of rows at its best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from decollapse.report.paired import Paired
from decollapse.report.summary import MISSING, Column
from decollapse.reproduce.grid import Cell
from decollapse.reproduce.results import Results
from decollapse.reproduce.words import meanings
from decollapse.reproduce.writing import CONDITION, METHOD, RANK, signed, statistic_entry
from decollapse.tables import Cell as Entry
from decollapse.tables import Heading, Table

GAIN = Heading("gain", "gain"), Heading("gain_interval", "95 % interval"), Heading("gain_wins", "wins")


def gains_table(results: Results) -> Table:
    """What each row gains from its last addition: mean of the differences within a seed, and how sure it is."""
    rows = []
    for cell, plain in results.pairs():
        gain = results.gain(cell, plain, results.column)
        if gain is not None:
            rank = results.gain(cell, plain, RANK)
            of_rank = rank.mean if rank else None
            rows.append(
                [
                    *(Entry(cell.row), Entry(cell.column), Entry(plain.row)),
                    *_gain(gain, results.column),
                    Entry(signed(of_rank, RANK), {"": of_rank}),
                ]
            )
    against = Heading("against", "against", align="left")
    return Table([METHOD, CONDITION, against, *GAIN, Heading("rank_gain", f"gain in {RANK.title}")], rows)


def best_table(results: Results) -> Table:
    """Rows that differ in a value alone, at the best one, beside the first such family at its best; else nothing."""
    families = _families(results)
    rows = []
    for label in results.grid.columns:
        best = {name: cell for name, members in families.items() if (cell := _best(results, members, label))}
        first = next(iter(best.values()), None)
        for name, cell in best.items():
            gain = results.gain(cell, first, results.column) if first and cell is not first else None
            rows.append(
                [
                    *(Entry(name), Entry(label), Entry(cell.row.removeprefix(name).strip())),
                    statistic_entry(results, cell, results.column),
                    *_gain(gain, results.column),
                ]
            )
    value = Heading("value", "at")
    ours = Heading(results.column.key, results.column.title)
    note = f"Gains are over {next(iter(families))} at its best." if families else ""
    return Table([METHOD, CONDITION, value, ours, *GAIN], rows, notes=[note] if rows else [])


def _families(results: Results) -> Mapping[str, Sequence[Cell]]:
    """The cells of rows whose last word has a value, by what is before it; families of one row are none."""
    found: dict[str, list[Cell]] = {}
    for cell in results.grid.cells:
        *_, (_, value) = meanings(cell.row, results.grid.choice.preset.all_words)
        if value:
            found.setdefault(cell.row.removesuffix(value).strip(), []).append(cell)
    return {name: cells for name, cells in found.items() if len({cell.row for cell in cells}) > 1}


def _best(results: Results, cells: Sequence[Cell], label: str) -> Cell | None:
    means = {
        cell: statistic.mean
        for cell in cells
        if cell.column == label and (statistic := results.statistic(cell, results.column))
    }
    choose = max if results.column.higher_is_better else min
    return choose(means, key=lambda cell: means[cell], default=None)


def _gain(gain: Paired | None, column: Column) -> list[Entry]:
    if gain is None:
        return [Entry(MISSING, {"": None}), Entry(MISSING, {"low": None, "high": None}), Entry(MISSING, {"": None})]
    low, high = gain.interval or (None, None)
    interval = MISSING if low is None else f"{signed(low, column)} to {signed(high, column)}"
    # An interval that excludes zero stands out.
    strong = low is not None and high is not None and low * high > 0
    return [
        Entry(signed(gain.mean, column), {"": gain.mean}, strong=strong),
        Entry(interval, {"low": low, "high": high}),
        Entry(f"{gain.wins} of {gain.num}", {"": gain.wins, "pairs": gain.num}),
    ]
