"""Commands that show what there is: compare, report, list."""

from __future__ import annotations

import sys
from pathlib import Path

from decollapse.cli.options import AsJson


def compare(*folders: Path, as_json: AsJson = False) -> None:
    """Print final accuracy, loss and effective rank of runs, mean and standard deviation over seeds.

    Example: decollapse compare runs/mine runs/other

    Parameters
    ----------
    folders
        Run folders, or folders of run folders.
    as_json
        Print JSON.
    """
    from decollapse.runs import find_runs
    from decollapse.terminal import print_comparison

    print_comparison([folder.path for folder in find_runs(folders)], as_json=as_json)


def report(*folders: Path, out: Path = Path("report.html")) -> None:
    """Write one HTML page about runs: curves, spectra, tables; it opens offline.

    Example: decollapse report runs/mine --out mine.html

    Parameters
    ----------
    folders
        Run folders, or folders of run folders.
    out
        The file to write.
    """
    from decollapse.report import write_report
    from decollapse.runs import find_runs

    written = write_report([folder.path for folder in find_runs(folders)], out)
    sys.stdout.write(f"{written}\n")


def list_components(*, as_json: AsJson = False) -> None:
    """List what a recipe can name: partitions, models, terms, optimisers, engines.

    Example: decollapse list

    Parameters
    ----------
    as_json
        Print JSON.
    """
    from decollapse.terminal import print_catalog

    print_catalog(as_json=as_json)
