"""What FedDecorr gains over FedAvg in tables of `decollapse reproduce`, one line a condition.

    python scripts/summary_of_tables.py docs/results/*-cifar10

Reads table.json alone. A gain is the mean of the differences within a seed, with Student's 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from decollapse.reproduce.protocol import data_entries
from decollapse.tables import Cell, Heading, Table, as_markdown

HEADINGS = [
    Heading("condition", "condition", align="left"),
    Heading("plain", "FedAvg"),
    Heading("feddecorr", "with FedDecorr"),
    Heading("gain", "gain"),
    Heading("interval", "95 % interval"),
    Heading("wins", "wins"),
]
PLAIN = "FedAvg"


def lines(table: Mapping[str, Any]) -> Iterator[list[Cell]]:
    """A line wherever a row that begins with FedAvg + FedDecorr was paired with FedAvg."""
    cells = {(cell["row"], cell["column"]): cell for cell in table["cells"]}
    for (row, column), cell in cells.items():
        gain = next((gain for gain in cell["gains"] if gain["against"] == PLAIN), None)
        if gain and row.startswith(f"{PLAIN} + FedDecorr"):
            variant = row.removeprefix(f"{PLAIN} + FedDecorr").strip()
            condition = f"{column} {variant}".strip()
            shown = [condition, spread(cells[PLAIN, column]["ours"]), spread(cell["ours"]), *of_gain(gain)]
            yield [Cell(text) for text in shown]


def spread(statistic: Mapping[str, Any]) -> str:
    """Mean ± standard deviation."""
    return f"{statistic['mean']:.1f}" + ("" if statistic["std"] is None else f" ± {statistic['std']:.1f}")


def of_gain(gain: Mapping[str, Any]) -> list[str]:
    """Its mean, its interval, and how many seeds gained."""
    low, high = gain["interval"] or (None, None)
    interval = "" if low is None else f"{signed(low)} to {signed(high)}"
    return [signed(gain["mean"]), interval, f"{gain['wins']} of {gain['wins'] + gain['ties'] + gain['losses']}"]


def signed(value: float) -> str:
    """With a sign that is as wide as a plus.

    >>> signed(-1.24)
    '−1.2'
    """
    return f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="of tables")
    folders: list[Path] = parser.parse_args().folders
    for folder in folders:
        table = json.loads((folder / "table.json").read_text())
        title = f"### [{table['title']}]({folder.name}/table.md), {data_entries()[table['dataset']].title}"
        sys.stdout.write(f"{title}\n\n{as_markdown(Table(HEADINGS, list(lines(table))))}\n")


if __name__ == "__main__":
    main()
