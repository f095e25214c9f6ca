"""What is kept of a grid beside its runs: table.md, .csv, .json, .svg and runs.jsonl, small enough to commit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from decollapse.checkpoint import write_atomically
from decollapse.pictures import has_matplotlib
from decollapse.reproduce.departures import departures
from decollapse.reproduce.grid import Cell
from decollapse.reproduce.page import as_page
from decollapse.reproduce.picture import save_table
from decollapse.reproduce.results import Results, machine, run_as_json
from decollapse.reproduce.times import Call, read_calls
from decollapse.reproduce.writing import long_table
from decollapse.runs import RunFolder
from decollapse.tables import as_csv


def write_results(out: Path, results: Results, *, command: str) -> list[Path]:
    """Write all files, the picture if there is matplotlib; `command` is the one that makes them."""
    calls = read_calls(out)
    drawn = [save_table(results, out / "table")] if has_matplotlib() else []
    texts = {
        "table.md": as_page(results, command=command, calls=calls, pictures=[path.name for path in drawn]),
        "table.csv": as_csv(long_table(results)),
        "table.json": json.dumps(as_json(results, command=command, calls=calls), indent=1, ensure_ascii=False) + "\n",
        "runs.jsonl": "".join(
            json.dumps(run_as_json(run, view, RunFolder.open(out / run.path)), ensure_ascii=False) + "\n"
            for run, view in results.views.items()
        ),
    }
    for name, text in texts.items():
        write_atomically(out / name, text.encode())
    return [*(out / name for name in texts), *drawn]


def as_json(results: Results, *, command: str, calls: Sequence[Call] = ()) -> dict[str, Any]:
    """The table for programs: every cell with its statistic, what was published, and the gain within a seed."""
    choice = results.grid.choice
    return {
        "preset": choice.preset.name,
        "title": choice.preset.title,
        "about": choice.preset.about,
        "dataset": choice.dataset,
        "scale": choice.scale,
        "seeds": list(choice.seeds),
        "command": command,
        "machine": machine(list(results.views.values())),
        "calls": [asdict(call) for call in calls],
        "measure": choice.preset.measure,
        "departures": departures(results.grid),
        "cells": [_cell(results, cell) for cell in results.grid.cells],
    }


def _cell(results: Results, cell: Cell) -> dict[str, Any]:
    statistic = results.statistic(cell, results.column)
    gains = {other.row: results.gain(cell, other, results.column) for own, other in results.pairs() if own is cell}
    return {
        "row": cell.row,
        "column": cell.column,
        "ours": statistic and asdict(statistic),
        "by_seed": results.by_seed(cell, results.column),
        "published": [{"value": value, "source": numbers.source} for value, numbers in results.published(cell)],
        "gains": [{"against": row, **asdict(gain)} for row, gain in gains.items() if gain],
    }
