"""The report: run folders in, one self-contained HTML page out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from decollapse.report.summary import Group, SummaryRow, group_runs, summary_rows
from decollapse.report.view import RunView, read_run

__all__ = ["Group", "RunView", "SummaryRow", "group_runs", "read_run", "summary_rows", "write_report"]


def write_report(folders: Sequence[Path], out: Path) -> Path:
    """Write one HTML page that compares the runs in `folders`; it opens offline, in any browser since 2023.

    Unfinished runs and runs without a finished round are allowed, and noted on the page. The file appears whole or not
    at all. Folders given twice count once.

    Args:
        folders: run folders, as `decollapse run` leaves them.
        out: the file to write; its folder is made.

    Returns:
        `out`.

    Raises:
        ValueError: no folder is given, one is not a run folder, or a file in it is damaged.
    """
    # Imported here: plotly costs half a second, and printing the comparison table does not need it.
    from decollapse.report.page import page

    unique = {folder.resolve(): folder for folder in reversed(folders)}
    text = page([read_run(folder) for folder in reversed(unique.values())])
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return out
