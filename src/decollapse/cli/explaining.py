"""Commands that explain: diagnose, theory, figures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from decollapse.cli.options import AsJson, Overrides


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
        A folder for the plots, as SVG and PNG; they need matplotlib.
    as_json
        Print JSON.
    """
    from decollapse.theory.study import Setting
    from decollapse.theory.tables import answer

    answer(question, Setting(num_hidden=layers, start=start, horizon=horizon), seeds=seeds, out=out, as_json=as_json)


def figures(
    *folders: Path,
    data: str | None = None,
    overrides: Overrides = (),
    seeds: int | None = None,
    beta: float | None = None,
    absolute: Annotated[bool, Parameter(negative=())] = False,
    out: Path = Path("figures"),
) -> None:
    """Draw the figures of the paper: spectra, significant dimensions, features on a sphere; of any runs, or of its own.

    Example: decollapse figures runs/mine --out figures

    Parameters
    ----------
    folders
        Run folders, or folders of run folders; without any, those of the paper's figures are trained first.
    data
        The data of the runs to train, npz:data/cifar10 by default; or where the data of given runs are now.
    overrides
        One setting of the runs to train, such as rounds=20; repeat it for more.
    seeds
        How many seeds to train, 3 by default.
    beta
        Strength of FedDecorr in the runs to train, 0.1 by default.
    absolute
        Draw eigenvalues as they are, as the paper does; by default each spectrum is divided by its largest.
    out
        The folder of the figures, and in runs/ of the runs; a training that was stopped goes on.
    """
    from decollapse.figures import write_figures
    from decollapse.figures.study import BETA, CIFAR10, paper_runs
    from decollapse.runs import find_runs
    from decollapse.terminal import run_folders

    if folders:
        of_training = {"--set": overrides, "--seeds": seeds, "--beta": beta}
        if given := [name for name, value in of_training.items() if value]:
            raise ValueError(f"{given[0]} is for runs that are trained here; leave it out, or leave the folders out.")
        found = find_runs(folders)
    else:
        found = paper_runs(
            out / "runs",
            data=data or CIFAR10,
            overrides=overrides,
            seeds=3 if seeds is None else seeds,
            beta=BETA if beta is None else beta,
        )
        run_folders(found)
    written, notes = write_figures([run.path for run in found], out, absolute=absolute, data=data)
    sys.stderr.writelines(f"{note}\n" for note in notes)
    sys.stdout.writelines(f"{path}\n" for path in written)
