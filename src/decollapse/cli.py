"""The command line: results on stdout, progress on stderr, one sentence for a mistake.

Commands import what they need when they run, so that `decollapse --help` does not wait for PyTorch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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


@app.command
def diagnose(
    *folders: Path,
    against: Path | None = None,
    round: int | None = None,
    weights: Path | None = None,
    model: str | None = None,
    data: str | None = None,
    layer: str | None = None,
    take: Literal["input", "output"] = "input",
    overrides: Overrides = (),
    as_json: AsJson = False,
) -> None:
    """Say whether features are collapsed, why, and what to do: of runs, or of any model with its weights.

    Example: decollapse diagnose runs/mine --against runs/healthy

    Parameters
    ----------
    folders
        Run folders, or folders of run folders.
    against
        A run that is healthy, on the same data with the same model.
    round
        Which round; by default the last that was measured.
    weights
        A safetensors file, in place of a folder; with --model and --data.
    model
        Its model: a name such as resnet20, or package.module:factory.
    data
        Its data set, such as digits or npz:FOLDER; the test split is measured.
    layer
        The layer to take features from; needed where a model of another package returns logits alone.
    take
        Whether the features are what goes into that layer or what comes out.
    overrides
        One setting of the model or data, such as model.norm=group; repeat it for more.
    as_json
        Print JSON.
    """
    from decollapse.diagnose.folder import diagnose_runs, reference
    from decollapse.diagnose.table import print_findings
    from decollapse.diagnose.weights import diagnose_weights

    of_model = {"--model": model, "--data": data, "--layer": layer, "--set": overrides}
    if weights is None:
        if given := [name for name, value in of_model.items() if value]:
            raise ValueError(f"{given[0]} goes with --weights; a run's folder says what its model and data are.")
        if not folders:
            raise ValueError("diagnose needs at least one run folder, or --weights with --model and --data.")
        print_findings(diagnose_runs(folders, round=round, against=against), as_json=as_json)
        return
    if folders or round is not None:
        raise ValueError("--weights stands in place of run folders and rounds; give one or the other.")
    if model is None or data is None:
        raise ValueError("--weights needs to know what the weights are of: --model and --data.")
    found = diagnose_weights(weights, model, data, layer=layer, take=take, overrides=overrides)
    print_findings([found.against(reference(against)) if against else found], as_json=as_json)


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


@app.command
def theory(
    question: Literal["growth", "averaging", "rates"] = "growth",
    /,
    *,
    seeds: int = 4,
    layers: int = 3,
    start: Literal["balanced", "gaussian"] = "balanced",
    horizon: float = 40.0,
    out: Path | None = None,
    as_json: AsJson = False,
) -> None:
    """Show on deep linear networks why unequal classes collapse features, and what averaging keeps.

    Example: decollapse theory --out theory

    Parameters
    ----------
    question
        growth: what grows in one client; averaging: in the average of ten; rates: the theorem against the flow.
    seeds
        How many to average over.
    layers
        Hidden layers of the network.
    start
        balanced satisfies the theorem's assumptions, gaussian is how frameworks begin.
    horizon
        Time N t at the end: learning rate times steps of gradient descent on the mean loss.
    out
        A folder for the plots, as SVG.
    as_json
        Print JSON.
    """
    from decollapse.theory.study import Setting
    from decollapse.theory.tables import answer

    answer(question, Setting(num_hidden=layers, start=start, horizon=horizon), seeds=seeds, out=out, as_json=as_json)


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
