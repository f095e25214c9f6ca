"""The command that makes the paper's tables: reproduce."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from decollapse import worker_server
from decollapse.cli import explaining
from decollapse.cli.options import Overrides

Labels = Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=False)]


def reproduce(
    name: str | None = None,
    /,
    *,
    dataset: str | None = None,
    scale: str | None = None,
    seeds: str = "3",
    methods: Labels = (),
    conditions: Labels = (),
    data: str | None = None,
    overrides: Overrides = (),
    jobs: int | None = None,
    take_from: Annotated[tuple[Path, ...], Parameter(negative=(), consume_multiple=False)] = (),
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    out: Path | None = None,
) -> None:
    """Make a table of the paper: ours, published, difference; without a name, list the tables.

    Example: decollapse reproduce table1 --dataset cifar10 --dry-run

    Parameters
    ----------
    name
        Which table or figure.
    dataset
        Of which data set; by default the table's first.
    scale
        small, the default, for two CPU cores in hours; paper, the paper's own protocol.
    seeds
        How many, from 0 on; or a list such as 0,1,2.
    methods
        Those rows alone, separated by commas; repeat it for more.
    conditions
        Those columns alone, such as "α 0.05,IID".
    data
        Where the data are, such as npz:FOLDER.
    overrides
        One setting of every run, such as rounds=2; repeat it for more. It counts as a departure.
    jobs
        Runs at the same time; by default one for each core, or for each GPU.
    take_from
        A folder of another table, whose finished runs are not run again where they belong in this one; repeatable.
    dry_run
        Show what would be run and how long it would take.
    out
        The folder of the table and its runs; by default below runs/reproduce. One that was stopped goes on.
    """
    if name == "figures":
        if not seeds.isdecimal():
            raise ValueError(f"the figures take how many --seeds, such as 3; got {seeds!r}.")
        of_tables: dict[str, object] = {"--dataset": dataset, "--scale": scale, "--jobs": jobs, "--dry-run": dry_run}
        of_tables |= {"--methods": methods, "--conditions": conditions}
        if given := [option for option, value in of_tables.items() if value]:
            raise ValueError(f"{given[0]} is for tables; `decollapse figures --help` says what the figures take.")
        explaining.figures(data=data, overrides=overrides, seeds=int(seeds), out=out or Path("runs/reproduce/figures"))
        return
    worker_server.start()
    from decollapse.reproduce.command import default_jobs, list_presets
    from decollapse.reproduce.command import reproduce as make_table
    from decollapse.reproduce.plan import chosen

    if name is None:
        list_presets()
        return
    choice = chosen(
        name,
        dataset=dataset,
        scale=scale,
        seeds=seeds,
        data=data,
        rows=methods,
        columns=conditions,
        overrides=overrides,
    )
    out = out or Path("runs/reproduce") / f"{name}-{choice.dataset}-{choice.scale}"
    try:
        finished = make_table(
            choice, out, jobs=default_jobs() if jobs is None else jobs, take_from=take_from, dry_run=dry_run
        )
    except KeyboardInterrupt:
        sys.stderr.write("Stopped. The same command goes on where it was.\n")
        raise SystemExit(130) from None
    if not finished:
        raise SystemExit(1)
