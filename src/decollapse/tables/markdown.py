"""Tables in GitHub's Markdown."""

from __future__ import annotations

import re
import unicodedata

from decollapse.tables.table import Cell, Table

SPECIAL = re.compile(r"([\\`*_<>\[\]|~&$])")
"""What would be read as markup."""


def as_markdown(table: Table) -> str:
    """A table whose columns are aligned in the source, too; its notes are a paragraph below.

    >>> from decollapse.tables import Heading
    >>> headings = Heading("method", "method", align="left"), Heading("accuracy", "accuracy (%)")
    >>> print(as_markdown(Table(headings, [[Cell("FedAvg"), Cell("54.2 ± 0.8")]])), end="")
    | method | accuracy (%) |
    |:-------|-------------:|
    | FedAvg |   54.2 ± 0.8 |
    """
    titles = [_escaped(heading.title) for heading in table.headings]
    rows = [[_marked(cell) for cell in row] for row in table.rows]
    rights = [heading.align == "right" for heading in table.headings]
    widths = [max(3, *(_width(row[column]) for row in [titles, *rows])) for column in range(len(titles))]

    def line(cells: list[str]) -> str:
        padded = (_padded(cell, width, right) for cell, width, right in zip(cells, widths, rights, strict=True))
        return f"| {' | '.join(padded)} |\n"

    rules = [
        "-" * (width + 1) + ":" if right else ":" + "-" * (width + 1)
        for width, right in zip(widths, rights, strict=True)
    ]
    notes = f"\n{' '.join(_escaped(note) for note in table.notes)}\n" if table.notes else ""
    return line(titles) + f"|{'|'.join(rules)}|\n" + "".join(map(line, rows)) + notes


def _marked(cell: Cell) -> str:
    text = _escaped(cell.text)
    return f"**{text}**" if cell.strong and text else text


def _escaped(text: str) -> str:
    """Text as Markdown that is shown as that text, on one line.

    >>> print(_escaped("a|b *c*"))
    a\\|b \\*c\\*
    """
    return SPECIAL.sub(r"\\\1", " ".join(text.splitlines()))


def _padded(text: str, width: int, right: bool) -> str:
    padding = " " * (width - _width(text))
    return padding + text if right else text + padding


def _width(text: str) -> int:
    """Places a text takes in a font of fixed width: none for a combining mark, two for a wide character."""
    marks = sum(unicodedata.combining(letter) > 0 for letter in text)
    return len(text) - marks + sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
