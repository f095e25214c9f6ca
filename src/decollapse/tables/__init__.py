"""Tables as values, and four ways to write them: text, Markdown, LaTeX, CSV."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from decollapse.tables.latex import as_latex
from decollapse.tables.markdown import as_markdown
from decollapse.tables.separated import as_csv
from decollapse.tables.table import Cell, Heading, Scalar, Table
from decollapse.tables.text import as_text

__all__ = ["WRITERS", "Cell", "Format", "Heading", "Scalar", "Table", "as_csv", "as_latex", "as_markdown", "as_text"]

Format = Literal["text", "markdown", "latex", "csv"]

WRITERS: dict[Format, Callable[[Table], str]] = {
    "text": as_text,
    "markdown": as_markdown,
    "latex": as_latex,
    "csv": as_csv,
}
"""Each takes a table and gives whole lines, a newline at the end of the last."""
