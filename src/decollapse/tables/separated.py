"""Tables as comma-separated values, for programs."""

from __future__ import annotations

import csv
from io import StringIO

from decollapse.tables.table import Scalar, Table


def as_csv(table: Table) -> str:
    """The unrounded numbers of a table, a field for each, below a header; a number that a row lacks is empty.

    As RFC 4180 has it, but for lines that end in a newline alone.

    >>> from decollapse.tables import Cell, Heading
    >>> headings = Heading("method", "method", align="left"), Heading("accuracy", "accuracy (%)")
    >>> cell = Cell("54.2 ± 0.8", {"mean": 54.2489, "std": 0.8391})
    >>> print(as_csv(Table(headings, [[Cell("FedAvg"), cell]])), end="")
    method,accuracy_mean,accuracy_std
    FedAvg,54.2489,0.8391
    """
    fields: dict[str, list[Scalar]] = {}
    for column, heading in enumerate(table.headings):
        cells = [row[column] for row in table.rows]
        for name in dict.fromkeys(name for cell in cells for name in cell.numbers):
            fields[f"{heading.key}_{name}" if name else heading.key] = [cell.numbers.get(name) for cell in cells]
        if not any(cell.numbers for cell in cells):
            fields[heading.key] = [cell.text for cell in cells]
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([list(fields), *zip(*fields.values(), strict=True)])
    return out.getvalue()
