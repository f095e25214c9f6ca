"""Tables for a terminal and for plain text."""

from __future__ import annotations

from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from decollapse.tables.table import Table

NO_LIMIT = 10_000
"""Characters a line; more than any table has."""
LEAST_FIRST = 24
"""Characters of the first column, where the terminal is too narrow for all of it."""


def as_text(table: Table) -> str:
    """A table in plain text, aligned and as wide as it has to be, its notes below.

    >>> from decollapse.tables import Cell, Heading
    >>> headings = Heading("method", "method", align="left"), Heading("accuracy", "accuracy (%)")
    >>> print(as_text(Table(headings, [[Cell("FedAvg"), Cell("54.2 ± 0.8")]])), end="")
     method   accuracy (%)
     ─────────────────────
     FedAvg     54.2 ± 0.8
    """
    text = StringIO()
    Console(file=text, width=NO_LIMIT, color_system=None, highlight=False).print(_rich(table))
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    return "".join(f"{line}\n" for line in [*(line for line in lines if line), *table.notes])


def print_table(table: Table, console: Console) -> None:
    """Print a table and its notes on a terminal, without the last columns where there is no room for them."""
    shown = table
    while len(shown.headings) > 2 and _least_width(shown, console) > console.width:
        shown = shown.select([heading.key for heading in shown.headings[:-1]])
    console.print(_rich(shown))
    left = [heading.title for heading in table.headings[len(shown.headings) :]]
    for note in [*table.notes, *([f"A wider terminal shows {', '.join(left)}, too."] if left else [])]:
        console.print(Text(note), soft_wrap=True)


def _least_width(table: Table, console: Console) -> int:
    first = max(len(text) for text in (table.headings[0].title, *(row[0].text for row in table.rows)))
    unlimited = console.options.update(width=NO_LIMIT)
    return console.measure(_rich(table), options=unlimited).maximum - max(0, first - LEAST_FIRST)


def _rich(table: Table) -> RichTable:
    rich = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, heading in enumerate(table.headings):
        right = heading.align == "right"
        # Text, because a string's square brackets would be markup.
        rich.add_column(Text(heading.title), justify="right" if right else "left", no_wrap=number > 0)
    for row in table.rows:
        rich.add_row(*(Text(cell.text, style="bold" if cell.strong else "") for cell in row))
    return rich
