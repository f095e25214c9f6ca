"""The runs behind the paper's figures: four label skews, each with and without FedDecorr."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from decollapse.runs import RunFolder
from decollapse.study import create_runs

RECIPE = Path(__file__).parents[1] / "figures.toml"
CIFAR10 = "npz:data/cifar10"
BETA = 0.1
FEDDECORR = "client.objective.feddecorr"
"""In the release's normalisation: the default gives a last batch of two or three examples a gradient that can throw a
client off, see docs/figures.md."""
SKEWS = {
    **{f"alpha={alpha}": ["partition.name=dirichlet", f"partition.alpha={alpha}"] for alpha in (0.01, 0.05, 0.25)},
    "iid": ["partition=iid"],
}
"""From one or two classes a client to all of them."""
VARIED = {
    "seed": "--seeds",
    "partition": "every value of alpha in turn",
    FEDDECORR: "--beta",
    "data.name": "--data",
}
"""Settings that the figures vary themselves, and what says them."""


def paper_runs(
    out: Path, *, data: str = CIFAR10, overrides: Sequence[str] = (), seeds: int = 3, beta: float = BETA
) -> list[RunFolder]:
    """Make the folders of the runs, or open those that are there; nothing is trained yet.

    All runs of a seed come before those of the next, so that a study that was stopped has whole seeds.

    Args:
        out: the folder of all; a run is `out/alpha=0.05,feddecorr/seed=0`.
        data: a data set; see `DataSource`.
        overrides: further settings, `key=value`.
        seeds: 0, 1, ... this many.
        beta: strength of FedDecorr, above 0.

    Raises:
        ValueError: the data are missing, `overrides` set what is varied, or a number is out of range.
        RunFolderError: a folder holds another run.
    """
    if seeds < 1 or not beta > 0:
        raise ValueError(f"the figures need --seeds of at least 1 and --beta above 0, got {seeds} and {beta}.")
    for override in overrides:
        _check_override(override)
    missing = Path(CIFAR10.removeprefix("npz:")) / "train.npz"
    if data == CIFAR10 and not missing.is_file():
        raise ValueError(
            f"the figures are of CIFAR-10, and there is no {missing}: write train.npz and test.npz as docs/figures.md "
            "shows, or name other data, such as --data fashion-mnist-small."
        )
    sweep = f"seed={','.join(map(str, range(seeds)))}"
    folders: list[RunFolder] = []
    for name, skew in SKEWS.items():
        settings = [f"data.name={data}", *overrides, *skew]
        folders += create_runs(RECIPE, settings, [sweep], out / name, reuse=True)
        settings += [f"{FEDDECORR}.beta={beta}", f"{FEDDECORR}.normalization=release"]
        folders += create_runs(RECIPE, settings, [sweep], out / f"{name},feddecorr", reuse=True)
    return sorted(folders, key=lambda folder: folder.experiment.seed)


def _check_override(override: str) -> None:
    key = override.partition("=")[0].strip()
    for varied, how in VARIED.items():
        if key == varied or key.startswith(f"{varied}."):
            raise ValueError(f"--set {key} is not taken, because the figures vary {varied} themselves: {how}.")
