"""The trials: Optuna proposes settings, every trial is ordinary run folders, and nothing finished is run again.

    OUT/study.db                     what was tried and what came of it, as Optuna keeps it in SQLite
    OUT/trial-0007/seed=0/run.json   a run folder for each seed of a trial

Proposals are those of the tree-structured Parzen estimator (J. Bergstra, R. Bardenet, Y. Bengio, B. Kegl, Algorithms
for Hyper-Parameter Optimization, NIPS 2011), each a function of the trials before it and of its number: a search that
was stopped goes on as if it had not been.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from decollapse.checkpoint import CheckpointError
from decollapse.report.summary import Statistic
from decollapse.report.view import read_run
from decollapse.runs import RunFolder, RunFolderError, continue_run
from decollapse.search.question import Search
from decollapse.search.storage import open_study, require_optuna, trial_of
from decollapse.simulation import RoundRecord

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

Run = Callable[[RunFolder], Generator[RoundRecord]]
"""Runs what is missing of a folder, and yields each round once it is saved."""


class _TrialPrunedError(Exception):
    """A trial was cut short."""


class _TrialFailedError(Exception):
    """A trial has come to nothing; the message says why."""


@dataclass(frozen=True)
class Tried:
    """What came of a trial.

    Attributes:
        number: of the trial, from 0.
        settings: what it was run with, as a recipe writes them.
        outcome: `finished`, `pruned` (cut short), or `failed` (it could not be run, or has no number).
        found: the number that is judged, over its seeds; None unless it is finished.
        rounds: of its first seed, as far as they were judged.
    """

    number: int
    settings: Mapping[str, str]
    outcome: str
    found: Statistic | None
    rounds: int


def _quietly(folder: RunFolder) -> Generator[RoundRecord]:
    for record, _ in continue_run(folder):
        yield record


def _unheard(sentence: str) -> None:
    """Tell nobody."""


def run_trials(
    search: Search, num_trials: int, *, run: Run = _quietly, tell: Callable[[str], None] = _unheard
) -> list[Tried]:
    """Go on with a search until it has so many trials, those of before included.

    Args:
        search: what is to be found out.
        num_trials: at least 1.
        run: how a folder is run.
        tell: told what each trial tries and what came of it.

    Returns:
        The trials, in the order of their numbers.

    Raises:
        OptunaMissingError: Optuna is not installed.
        ValueError: a recipe cannot be understood or run, or the folder holds another search.
    """
    require_optuna()
    if num_trials < 1:
        raise ValueError(f"--trials is at least 1, got {num_trials}.")
    search.try_out()
    study = open_study(search)
    for number in range(num_trials):
        begun = study.get_trials(deepcopy=False)
        if number < len(begun) and begun[number].state.is_finished():
            continue
        trial = trial_of(study, search, number)
        settings = {part.key: part.suggest(trial) for part in search.space}
        trial.set_user_attr("settings", settings)
        tell(f"trial {number}: {', '.join(f'{key}={value}' for key, value in settings.items())}")
        tell(f"trial {number}: {_end(study, trial, search, settings, run)}")
    return [_tried(trial) for trial in study.get_trials(deepcopy=False)[:num_trials]]


def _end(study: Study, trial: Trial, search: Search, settings: Mapping[str, str], run: Run) -> str:
    """Run a trial, tell Optuna what came of it, and say it."""
    from optuna.trial import TrialState

    try:
        values = _of_twin(study, trial, settings) or _values(study, trial, search, settings, run)
    except _TrialPrunedError as stop:
        study.tell(trial, state=TrialState.PRUNED)
        return f"pruned{stop}"
    except _TrialFailedError as error:
        study.tell(trial, state=TrialState.FAIL)
        return f"failed: {error}"
    trial.set_user_attr("values", values)
    study.tell(trial, statistics.fmean(values))
    return f"{search.column.title} {search.column.show(Statistic.of(values))}"


def _of_twin(study: Study, trial: Trial, settings: Mapping[str, str]) -> list[float] | None:
    """The numbers of an earlier trial with the same settings, which would give the same bits again."""
    from optuna.trial import TrialState

    for other in study.get_trials(deepcopy=False)[: trial.number]:
        if other.user_attrs.get("settings") == settings:
            if other.state == TrialState.PRUNED:
                raise _TrialPrunedError(f", as trial {other.number} was, which is the same")
            if other.state == TrialState.FAIL:
                raise _TrialFailedError(f"as trial {other.number} did, which is the same")
            return list(other.user_attrs["values"])
    return None


def _values(study: Study, trial: Trial, search: Search, settings: Mapping[str, str], run: Run) -> list[float]:
    """The number of each seed, seed by seed; rounds of the first are reported as they come."""
    values = []
    for seed in range(search.seeds):
        try:
            experiment = search.experiment(settings, seed)
            path = search.out / f"trial-{trial.number:04d}" / f"seed={experiment.seed}"
            name = f"trial {trial.number}, seed {experiment.seed}"
            folder = RunFolder.create(path, experiment, name=name, reuse=True)
            with closing(run(folder)) as rounds:
                if seed == 0:
                    _judge(study, trial, search, folder)
                for _ in rounds:
                    if seed == 0:
                        _judge(study, trial, search, folder)
        except (RunFolderError, CheckpointError):
            raise  # the folder is at fault, not the settings
        except (ValueError, RuntimeError) as error:
            raise _TrialFailedError(str(error)) from error
        value = search.column.of(read_run(path), experiment.rounds)
        if value is None:
            raise _TrialFailedError(f"{path} has recorded no {search.column.title}.")
        values.append(value)
    return values


def _judge(study: Study, trial: Trial, search: Search, folder: RunFolder) -> None:
    """Report the rounds that are new, and cut the trial short where the pruner says so."""
    column = search.column
    reported = study.get_trials(deepcopy=False)[trial.number].intermediate_values
    # Round 0 is before training, and the same for all.
    rounds = {at: value * column.scale for at, value in read_run(folder.path).series(*column.path) if at > 0}
    for at in sorted(rounds.keys() - reported.keys()):
        trial.report(rounds[at], at)
    if rounds and max(rounds) < folder.experiment.rounds and trial.should_prune():
        raise _TrialPrunedError(
            f" after round {max(rounds)} at {column.title} {rounds[max(rounds)]:.{column.decimals}f}"
        )


def _tried(trial: FrozenTrial) -> Tried:
    from optuna.trial import TrialState

    outcomes = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    return Tried(
        number=trial.number,
        settings=trial.user_attrs["settings"],
        outcome=outcomes[trial.state],
        found=Statistic.of(trial.user_attrs.get("values", ())),
        rounds=trial.last_step or 0,
    )
