"""Markdown tables of a study: one line a setting, and the paired differences from its first setting.

python scripts/results_table.py docs/results/cifar10/resnet20
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from decollapse.report.summary import Group, Statistic, group_runs
from decollapse.report.view import RunView, lookup, read_run
from decollapse.runs import find_runs

COLUMNS = {
    "accuracy (%)": (lambda run: 100 * lookup(last(run), "evaluation", "accuracy"), 1),
    "loss": (lambda run: lookup(last(run), "evaluation", "loss"), 2),
    "effective rank": (lambda run: lookup(last(run), "spectrum", "covariance", "effective_rank"), 1),
    "of the correlation": (lambda run: lookup(last(run), "spectrum", "correlation", "effective_rank"), 1),
    "dims for 99 %": (lambda run: lookup(last(run), "spectrum", "covariance", "dims_99"), 1),
    "dead": (lambda run: lookup(last(run), "spectrum", "num_dead"), 1),
    "rank of local models": (lambda run: local_rank(run), 1),
}


def last(run: RunView) -> dict:
    """The record of the last round."""
    return dict(run.records[-1])


def local_rank(run: RunView) -> float:
    """Mean effective rank of the clients' own models in the last round."""
    ranks = [lookup(client, "spectrum", "covariance", "effective_rank") for client in last(run)["clients"]]
    return statistics.fmean(rank for rank in ranks if rank is not None)


def line(group: Group) -> str:
    """A row of the table."""
    cells = [group.label, str(len(group.compared))]
    for value, decimals in COLUMNS.values():
        statistic = Statistic.of([value(run) for run in group.compared])
        spread = "" if statistic is None or statistic.std is None else f" ± {statistic.std:.{decimals}f}"
        cells.append("" if statistic is None else f"{statistic.mean:.{decimals}f}{spread}")
    return f"| {' | '.join(cells)} |"


def paired(first: Group, other: Group) -> str:
    """Differences by seed from the first setting: same split, same initial weights."""
    by_seed = {run.seed: run for run in first.compared}
    pairs = [(by_seed[run.seed], run) for run in other.compared if run.seed in by_seed]
    cells = [other.label]
    for name in ("accuracy (%)", "effective rank"):
        value, _ = COLUMNS[name]
        cells.append(", ".join(f"{value(ours) - value(base):+.1f}" for base, ours in pairs))
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    groups = group_runs([read_run(folder.path) for folder in find_runs(parser.parse_args().folders)])
    groups = [group for group in groups if any(run.finished for run in group.runs)]
    lines = [f"| setting | seeds | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|", *map(line, groups)]
    if len(groups) > 1:
        lines += ["", f"Difference from {groups[0].label} by seed:", ""]
        lines += ["| setting | accuracy (points) | effective rank |", "|---|---|---|"]
        lines += [paired(groups[0], group) for group in groups[1:]]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
