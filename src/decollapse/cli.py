"""The command line: results on stdout, progress on stderr, one sentence for a mistake.

Commands import what they need when they run, so that `decollapse --help` does not wait for PyTorch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from rich.console import Console
from rich.text import Text

from decollapse import __version__

app = App(
    name="decollapse",
    version=__version__,
    help="Find, explain and repair dimensional collapse in federated learning.",
    suppress_keyboard_interrupt=False,  # a stopped run tells how to go on
    error_console=Console(stderr=True, soft_wrap=True, highlight=False),
    error_formatter=lambda error: Text(f"decollapse: {error}"),
)

if TYPE_CHECKING:
    from decollapse.runs import RunFolder

DEMO = Path(__file__).parent / "demo.toml"
DEMO_SETTINGS: dict[str, list[str]] = {
    "iid": ["partition=iid"],
    "skewed": [],
    "skewed+feddecorr": ["client.objective.feddecorr.beta=0.01"],
}

Overrides = Annotated[tuple[str, ...], Parameter(name=["--set", "-s"], negative=(), consume_multiple=False)]
Sweeps = Annotated[tuple[str, ...], Parameter(name="--sweep", negative=(), consume_multiple=False)]
AsJson = Annotated[bool, Parameter(name="--json", negative=())]


@app.command
def run(
    recipe: Path | None = None,
    /,
    *,
    overrides: Overrides = (),
    sweeps: Sweeps = (),
    out: Path | None = None,
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
    as_json
        Print the summary as JSON.
    """
    from decollapse.study import create_runs
    from decollapse.terminal import print_comparison, run_folders

    folders = create_runs(recipe, overrides, sweeps, out)
    run_folders(folders)
    print_comparison([folder.path for folder in folders], as_json=as_json)


@app.command
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
    from decollapse.runs import find_runs
    from decollapse.terminal import print_comparison, run_folders

    found = find_runs(folders)
    run_folders(found)
    print_comparison([folder.path for folder in found], as_json=as_json)


@app.command
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


@app.command
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


@app.command(name="list")
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


@app.command
def demo(*, out: Path = Path("runs/demo")) -> None:
    """Show a collapse and its repair on Fashion-MNIST: equal clients, unequal clients, unequal clients with FedDecorr.

    Example: decollapse demo

    Parameters
    ----------
    out
        The folder of the nine runs (three seeds each) and of report.html; a demo that was stopped goes on.
    """
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


def main() -> None:
    """The program `decollapse`."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run one command line; a person's mistake is one sentence on stderr and exit code 2."""
    debug = "--debug" in arguments
    try:
        app([argument for argument in arguments if argument != "--debug"], result_action="return_value")
    except SystemExit as end:
        return int(end.code or 0)
    except KeyboardInterrupt:
        sys.stderr.write("Stopped. Go on with `decollapse resume` and the folder of the run.\n")
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        if debug:
            raise
        sys.stderr.write(f"decollapse: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    main()
