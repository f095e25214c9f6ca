"""What the report reads of `spectra/`: eigenvalues of features, one file a round."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

MAX_ROUNDS = 16
"""More rounds than this say nothing new on a slider, and make a heavy page."""


@dataclass(frozen=True)
class GlobalSpectra:
    """Eigenvalues of the global model's features, largest first.

    Attributes:
        round: the round they were measured after.
        covariance: of the features.
        correlation: of the features, every dimension divided by its standard deviation first.
    """

    round: int
    covariance: Float[np.ndarray, "d"]
    correlation: Float[np.ndarray, "d"]


@dataclass(frozen=True)
class LocalSpectra:
    """Eigenvalues of the clients' models, after local training and before averaging.

    Attributes:
        round: the round they were measured in.
        clients: the clients measured.
        covariance: one row for each of `clients`, largest first.
    """

    round: int
    clients: tuple[int, ...]
    covariance: Float[np.ndarray, "clients d"]


@dataclass(frozen=True)
class RoundSpectra:
    """One round: the clients' models and the one they were averaged into; either may not have been measured."""

    round: int
    averaged: GlobalSpectra | None
    local: LocalSpectra | None


def last_global(folder: Path) -> GlobalSpectra | None:
    """Of the last round that has any.

    Raises:
        ValueError: a file is damaged.
    """
    return next((found for file in _latest_first(folder) if (found := _global_spectra(file)) is not None), None)


def last_local(folder: Path) -> LocalSpectra | None:
    """Of the last round that measured its clients, which may be done less often.

    Raises:
        ValueError: a file is damaged.
    """
    return next((found for file in _latest_first(folder) if (found := _local_spectra(file)) is not None), None)


def by_round(folder: Path, rounds: Sequence[int]) -> tuple[RoundSpectra, ...]:
    """Of each of `rounds` that has a file, but of no more than `MAX_ROUNDS`: the first, the last, and between them.

    Raises:
        ValueError: a file is damaged.
    """
    files = [folder / "spectra" / f"round-{round_:04d}.npz" for round_ in sorted(set(rounds))]
    found = [file for file in files if file.is_file()]
    chosen = [found[at] for at in evenly(len(found), MAX_ROUNDS)]
    spectra = (RoundSpectra(_round_of(file), _global_spectra(file), _local_spectra(file)) for file in chosen)
    return tuple(one for one in spectra if one.averaged is not None or one.local is not None)


def evenly(length: int, most: int) -> list[int]:
    """Positions of at most `most` of `length` things, the first and the last among them.

    >>> evenly(3, 16), evenly(9, 3)
    ([0, 1, 2], [0, 4, 8])
    """
    return sorted({int(at) for at in np.linspace(0, length - 1, min(length, most)).round()})


def _latest_first(folder: Path) -> list[Path]:
    return sorted((folder / "spectra").glob("round-*.npz"), reverse=True)


def _global_spectra(path: Path) -> GlobalSpectra | None:
    found = _arrays(path, "global_covariance", "global_correlation")
    return None if found is None else GlobalSpectra(_round_of(path), *found)


def _local_spectra(path: Path) -> LocalSpectra | None:
    found = _arrays(path, "clients", "local_covariance")
    return None if found is None else LocalSpectra(_round_of(path), tuple(map(int, found[0])), found[1])


def _arrays(path: Path, *names: str) -> list[np.ndarray] | None:
    """The named arrays of a file, or None where it does not have them all."""
    try:
        # Opened here, because numpy leaves a file that is no archive open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return [arrays[name] for name in names] if set(names) <= set(arrays.files) else None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a readable spectra file ({error}); restore it or delete it.") from error


def _round_of(path: Path) -> int:
    return int(path.stem.removeprefix("round-"))
