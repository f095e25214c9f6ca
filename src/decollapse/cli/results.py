"""Commands that show what there is: compare, report, list."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from decollapse.cli.options import AsJson

Metric = Literal[
    "accuracy",
    "loss",
    "effective_rank",
    "effective_rank_correlation",
    "participation_ratio",
    "num_dead",
    "seconds_per_round",
]


def compare(
    *folders: Path,
    against: str | None = None,
    metric: Metric = "accuracy",
    form: Annotated[Literal["text", "markdown", "latex", "csv", "json"], Parameter(name="--format")] = "text",
    as_json: AsJson = False,
    out: Path | None = None,
) -> None:
    """Print final accuracy, loss and effective rank of runs over seeds, and what each setting gains, seed by seed.

    Example: decollapse compare runs/mine runs/other --against FedAvg

    Parameters
    ----------
    folders
        Run folders, or folders of run folders.
    against
        What the other settings are paired with: a setting or algorithm as the table names it, or a folder; by default
        each is paired with the same without FedDecorr.
    metric
        The number that is paired.
    form
        CSV and JSON have every number unrounded; LaTeX needs the package booktabs.
    as_json
        Short for --format json.
    out
        A file to write; by default the comparison is printed.
    """
    from decollapse.checkpoint import write_atomically
    from decollapse.report import group_runs, read_run
    from decollapse.report.baselines import named
    from decollapse.report.comparison import METRICS, Comparison
    from decollapse.runs import find_runs
    from decollapse.terminal import print_tables

    others = find_runs([Path(against)]) if against and Path(against).exists() else []
    paths = {folder.path.resolve(): folder.path for folder in (*others, *find_runs(folders))}
    groups = group_runs([read_run(path) for path in paths.values()])
    baselines = named(groups, against, [folder.path for folder in others]) if against else None
    comparison = Comparison.of(groups, METRICS[metric], baselines=baselines)
    form = "json" if as_json else form
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, comparison.written(form).encode())
        sys.stdout.write(f"{out}\n")
    elif form == "text":
        print_tables(comparison.tables())
    else:
        sys.stdout.write(comparison.written(form))


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
