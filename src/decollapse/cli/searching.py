"""The command that searches: search."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from decollapse import worker_server
from decollapse.cli.options import AsJson, Overrides


def search(
    recipe: Path | None = None,
    /,
    *,
    vary: Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=False)] = (),
    trials: int = 20,
    metric: Literal[
        "accuracy", "loss", "effective_rank", "effective_rank_correlation", "participation_ratio"
    ] = "accuracy",
    seeds: int = 1,
    overrides: Overrides = (),
    prune: bool = True,
    out: Path = Path("runs/search"),
    as_json: AsJson = False,
) -> None:
    """Search for the settings of a recipe with the best accuracy or effective rank; the same command goes on with it.

    Example: decollapse search recipes/cifar10.toml --vary client.objective.feddecorr.beta=0.001..10:log --trials 20

    Parameters
    ----------
    recipe
        A TOML file; without one, every setting has its default.
    vary
        A setting and its range, such as client.epochs=1..10 or server.lr=0.1..10:log, or its values, such as
        model=mlp,resnet8; repeat it for more.
    trials
        How many to have in the end, those of before included.
    metric
        The number that counts, after the last round.
    seeds
        Runs a trial, whose mean counts.
    overrides
        One setting for all trials, such as rounds=20; repeat it for more.
    prune
        End a trial early whose best round so far is worse than the median of the trials before, at that round.
    out
        The folder of the study: study.db, and a run folder for each seed of each trial.
    as_json
        Print every trial as JSON.
    """
    worker_server.start()
    from decollapse.engines.memory import keep_freed_memory
    from decollapse.search import Search, best_trials, run_trials, varied
    from decollapse.search import as_json as trials_as_json
    from decollapse.terminal import print_tables, run_folder, stderr

    space = tuple(varied(text) for text in vary)
    question = Search(recipe, tuple(overrides), space, out, metric=metric, seeds=seeds, prune=prune)
    keep_freed_memory()
    try:
        tried = run_trials(question, trials, run=run_folder, tell=lambda words: stderr.print(words, markup=False))
    except KeyboardInterrupt:
        sys.stderr.write("Stopped. The same command goes on where it was.\n")
        sys.exit(130)
    if as_json:
        sys.stdout.write(json.dumps(trials_as_json(question, tried), indent=1) + "\n")
    else:
        print_tables([best_trials(question, tried)])
