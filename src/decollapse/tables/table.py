"""What a table is: headings, rows of cells, and a cell's text beside the numbers it was rounded from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

Scalar = str | int | float | None
"""What CSV can hold; None is an empty field."""


@dataclass(frozen=True)
class Heading:
    """One column.

    Attributes:
        key: its name in CSV, where the names of a cell's numbers follow it.
        title: what a person reads above it, the unit included.
        align: `right` for numbers.
    """

    key: str
    title: str
    align: str = "right"

    def __post_init__(self) -> None:
        if self.align not in ("left", "right"):
            raise ValueError(f"a column is aligned left or right, got {self.align!r}.")


@dataclass(frozen=True)
class Cell:
    """One entry: what a person reads, and what a program does.

    Attributes:
        text: rounded, with its unit or spread.
        numbers: unrounded, by what follows the heading's key in CSV (nothing follows an empty name). Where no cell of
            a column has any, CSV holds the texts.
        strong: stands out: in bold where the format has it.
    """

    text: str
    numbers: Mapping[str, Scalar] = field(default_factory=dict)
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells below their headings.

    Attributes:
        headings: one a column, no key twice.
        rows: each as long as `headings`.
        notes: sentences that belong below it.

    Raises:
        ValueError: a row of another length, or a key twice.

    >>> headings = Heading("method", "method", align="left"), Heading("accuracy", "accuracy (%)")
    >>> table = Table(headings, [[Cell("FedAvg"), Cell("54.2 ± 0.8", {"mean": 54.2489, "std": 0.8391})]])
    >>> table.select(["accuracy"]).rows[0][0].text
    '54.2 ± 0.8'
    """

    headings: Sequence[Heading]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        keys = [heading.key for heading in self.headings]
        if len(set(keys)) < len(keys):
            raise ValueError(f"every column has a key of its own, got {', '.join(keys)}.")
        if wrong := [len(row) for row in self.rows if len(row) != len(keys)]:
            raise ValueError(f"a row has a cell for each of the {len(keys)} headings, got one of {wrong[0]}.")

    def select(self, keys: Collection[str]) -> Table:
        """The columns with these keys, in the table's own order."""
        chosen = [number for number, heading in enumerate(self.headings) if heading.key in keys]
        rows = [[row[number] for number in chosen] for row in self.rows]
        return replace(self, headings=[self.headings[number] for number in chosen], rows=rows)
