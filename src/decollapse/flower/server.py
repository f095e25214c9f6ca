"""The server app: an experiment's own run, with the grid as its engine and a run folder for its memory.

Started again after whatever stopped it, it goes on from the last whole round in the folder.
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid

from decollapse.config import from_table, set_key, to_table
from decollapse.experiment import Experiment
from decollapse.flower.client import client_settings
from decollapse.flower.data import DataOfApp
from decollapse.flower.engine import OnGrid
from decollapse.flower.inbox import Patience
from decollapse.flower.meter import Metered
from decollapse.flower.processes import GRACE
from decollapse.flower.roster import Roster
from decollapse.flower.secure_reach import check_sums, secure
from decollapse.runs import RunFolder, RunFolderError, continue_run
from decollapse.schema import RecipeError
from decollapse.terminal import round_line

SETTINGS = ("out", "set", "deadline", "retries", "min-results", "wait")
"""What a run may be told, under [tool.flwr.app.config] or with `flwr run --run-config`."""


def run_federation(grid: Grid, recipe: str, data: DataOfApp, run_config: Mapping[str, Any]) -> RunFolder:
    """Run what is missing of an experiment, and say on standard output how it goes.

    Args:
        grid: to the nodes.
        recipe: TOML. Where it has no `num_clients`, there are as many as the nodes have partitions.
        data: where the examples are.
        run_config: `out`, the run folder; `set`, changes of the recipe such as "rounds=5 client.epochs=2"; `deadline`,
            `retries`, `min-results` and `wait` as in `Patience`.

    Raises:
        FederationError: nodes are missing, or too few answered; what was done is in the folder.
        SecureSumError: too few for a sum that shows no summand.
        ValueError: recipe or settings are wrong, or the folder holds another run.
    """
    patience = _patience(run_config)
    roster = Roster(grid)
    folder = Path(str(run_config.get("out", "runs/federation"))).expanduser().absolute()
    experiment = _experiment(recipe, str(run_config.get("set", "")), roster.everyone(wait=patience.wait))
    prepared = data.at_server(experiment)
    experiment = prepared.experiment
    prepared.check()
    if experiment.secure_aggregation:
        check_sums(experiment, patience)
    run = RunFolder.create(folder, experiment, reuse=True)
    _wait_until_free(run)
    _say(f"{experiment.num_clients} clients, run folder {folder}")
    if run.rounds_done is not None:
        anew = "; keys, and what clients keep between rounds, begin anew" if experiment.secure_aggregation else ""
        _say(f"going on after round {run.rounds_done}{anew}")
    engine = OnGrid(roster, to_table(experiment), client_settings(experiment.engine), patience)
    if experiment.secure_aggregation:
        engine = secure(engine, experiment, rounds_done=run.rounds_done or 0)
    on_grid = replace(prepared, experiment=replace(experiment, engine=engine))
    for record, _ in continue_run(run, prepared=on_grid, watch=lambda engine: Metered(engine, roster.meter)):
        _say(round_line(record, experiment.rounds))
    _say(f"done: decollapse report {folder}")
    return run


def _experiment(recipe: str, changes: str, num_clients: int) -> Experiment:
    table = tomllib.loads(recipe)
    for change in changes.split():
        set_key(table, change)
    experiment = from_table({"num_clients": num_clients} | table)
    if experiment.num_clients != num_clients:
        raise RecipeError(
            f"the recipe has num_clients = {experiment.num_clients}, the nodes have num-partitions={num_clients}; take "
            "num_clients out of the recipe to have as many clients as there are."
        )
    return experiment


def _patience(run_config: Mapping[str, Any]) -> Patience:
    unknown = sorted(run_config.keys() - set(SETTINGS))
    if unknown:
        raise RecipeError(f"{unknown[0]} is no setting of a federation; there is {', '.join(SETTINGS)}.")
    start = Patience()
    return Patience(
        deadline=float(run_config.get("deadline", start.deadline)),
        retries=int(run_config.get("retries", start.retries)),
        min_results=int(run_config.get("min-results", start.min_results)),
        wait=float(run_config.get("wait", start.wait)),
    )


def _wait_until_free(run: RunFolder) -> None:
    """A server app whose SuperLink was killed holds its folder until it has noticed; whoever goes on comes soon after.

    Raises:
        RunFolderError: another process is writing, and does not end.
    """
    deadline = time.monotonic() + 3 * GRACE
    while True:
        try:
            with run.locked():
                return
        except RunFolderError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1.0)


def _say(line: str) -> None:
    print(line, flush=True)  # Flower carries the server app's output to whoever started the run
