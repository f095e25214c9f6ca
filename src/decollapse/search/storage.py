"""Where Optuna keeps what was tried, and how it proposes what comes next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decollapse.core import derive_seed
from decollapse.report.labels import differences, flatten
from decollapse.runs import RunFolderError
from decollapse.search.question import Search

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.trial import Trial

STARTUP = 5
"""Trials that have to end before one is cut short."""


class OptunaMissingError(ValueError):
    """Optuna is not installed."""


def require_optuna() -> None:
    """Raise OptunaMissingError if there is no Optuna."""
    try:
        import optuna  # noqa: F401  # whether it is there
    except ImportError:
        raise OptunaMissingError("a search needs Optuna: pip install 'decollapse[search]'.") from None


def open_study(search: Search) -> Study:
    """The study in the folder, begun if there is none.

    Raises:
        RunFolderError: the folder holds another search, a run, or a file that is no study.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if (search.out / "run.json").exists():
        raise RunFolderError(f"{search.out} holds a single run; give the search another --out.")
    search.out.mkdir(parents=True, exist_ok=True)
    path = search.out / "study.db"
    try:
        study = optuna.create_study(
            storage=f"sqlite:///{path}",
            study_name="search",
            direction="maximize" if search.column.higher_is_better else "minimize",
            pruner=_pruner(search),
            load_if_exists=True,
        )
    except (SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        why = str(error).partition("\n")[0]
        raise RunFolderError(f"{path} is no study or damaged ({why}); restore it or choose another --out.") from error
    before, now = study.user_attrs.get("search"), search.description()
    if before is None:
        study.set_user_attr("search", now)
    elif before != now:
        path_of_first = differences([before, now])[0]
        old, new = (flatten(found).get(path_of_first, "not set") for found in (before, now))
        raise RunFolderError(
            f"{search.out} holds another search ({'.'.join(path_of_first)} is {old} there and {new} here); go on with "
            "that one, or choose another --out."
        )
    return study


def _pruner(search: Search) -> BasePruner:
    import optuna

    if not search.prune:
        return optuna.pruners.NopPruner()
    # The first rounds say little about the last.
    warm_up = max(2, search.first_experiment.rounds // 4)
    return optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=warm_up)


def trial_of(study: Study, search: Search, number: int) -> Trial:
    """The trial of this number: a new one, or the one that was cut off when the program ended."""
    import optuna

    # Startup trials are drawn without looking at others; a generator that began anew would draw the first ones again.
    study.sampler = optuna.samplers.TPESampler(seed=derive_seed("search", search.first_experiment.seed, number) % 2**32)
    begun = study.get_trials(deepcopy=False)
    # Optuna has no public way back to a trial that its process left.
    return optuna.trial.Trial(study, begun[number]._trial_id) if number < len(begun) else study.ask()
