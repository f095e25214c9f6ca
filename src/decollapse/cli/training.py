"""Commands that train: run, resume, demo."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from decollapse import worker_server
from decollapse.cli.options import AsJson, Overrides, Sweeps

if TYPE_CHECKING:
    from decollapse.runs import RunFolder

DEMO = Path(__file__).parents[1] / "demo.toml"
DEMO_SETTINGS: dict[str, list[str]] = {
    "iid": ["partition=iid"],
    "skewed": [],
    "skewed+feddecorr": ["client.objective.feddecorr.beta=0.01"],
}


def run(
    recipe: Path | None = None,
    /,
    *,
    overrides: Overrides = (),
    sweeps: Sweeps = (),
    out: Path | None = None,
    profile: Annotated[bool, Parameter(negative=())] = False,
    as_json: AsJson = False,
) -> None:
    """Train a federation as a recipe says, and keep everything in a folder.

    Example: decollapse run recipes/demo.toml --set client.objective.feddecorr.beta=0.1 --out runs/mine

    Parameters
    ----------
    recipe
        A TOML file; without one, every setting has its default.
    overrides
        One setting, such as client.epochs=5; repeat it for more.
    sweeps
        Several values of one setting, such as seed=0,1,2; repeat it for every combination.
    out
        The run's folder, or with --sweep the folder of all runs'; by default a new one below runs/.
    profile
        Tell at the end where the time went, and how near the machine's own rate the arithmetic came.
    as_json
        Print the summary as JSON.
    """
    worker_server.start()
    from decollapse.profile import profile_run
    from decollapse.study import create_runs
    from decollapse.terminal import print_comparison, print_profile, run_folders

    folders = create_runs(recipe, overrides, sweeps, out)
    run_folders(folders)
    if profile:
        print_profile({folder.path: profile_run(folder) for folder in folders})
    print_comparison([folder.path for folder in folders], as_json=as_json)


def resume(*folders: Path, as_json: AsJson = False) -> None:
    """Go on with unfinished runs: bit for bit as if they had not been stopped.

    Example: decollapse resume runs/mine

    Parameters
    ----------
    folders
        Run folders, or folders of run folders; runs that are finished are left alone.
    as_json
        Print the summary as JSON.
    """
    worker_server.start()
    from decollapse.runs import find_runs
    from decollapse.terminal import print_comparison, run_folders

    found = find_runs(folders)
    run_folders(found)
    print_comparison([folder.path for folder in found], as_json=as_json)


def demo(*, out: Path = Path("runs/demo")) -> None:
    """Show a collapse and its repair on Fashion-MNIST: equal clients, unequal clients, unequal clients with FedDecorr.

    Example: decollapse demo

    Parameters
    ----------
    out
        The folder of the nine runs (three seeds each) and of report.html; a demo that was stopped goes on.
    """
    worker_server.start()
    from decollapse.report import write_report
    from decollapse.study import create_runs
    from decollapse.terminal import print_comparison, run_folders

    folders: list[RunFolder] = []
    for name, overrides in DEMO_SETTINGS.items():
        folders += create_runs(DEMO, overrides, ["seed=0,1,2"], out / name, reuse=True)
    run_folders(folders)
    paths = [folder.path for folder in folders]
    print_comparison(paths, as_json=False)
    sys.stdout.write(f"{write_report(paths, out / 'report.html')}\n")
