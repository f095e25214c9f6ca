"""Run folders: everything about a run, in files that outlive the program.

    DIR/run.json                 recipe, versions, machine, partition, model, data fingerprint
    DIR/records.jsonl            one line a round
    DIR/spectra/round-0006.npz   eigenvalues of the global model and, where measured, of the local ones
    DIR/checkpoint.safetensors   the state after the last whole round

A round is in the folder when the checkpoint is: records and spectra beyond it are of a round that was cut short, and
are written again by whoever goes on.
"""

from __future__ import annotations

import datetime
import fcntl
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from decollapse.checkpoint import load_checkpoint, save_checkpoint, write_atomically
from decollapse.config import from_table, to_table
from decollapse.engines import Engine
from decollapse.experiment import Experiment, Prepared, prepare
from decollapse.provenance import provenance
from decollapse.records import record_as_json, spectra_as_npz
from decollapse.server_state import ServerState
from decollapse.simulation import RoundRecord

FORMAT = 1
IRRELEVANT_TO_WEIGHTS = ("rounds", "engine", "evaluation")


class RunFolderError(ValueError):
    """A folder is no run, holds another run, or is in use; the message says what to do."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Attributes:
        path: where it is.
        experiment: its recipe.
        description: `run.json` as it is, the recipe as it was first written among it.
    """

    path: Path
    experiment: Experiment
    description: Mapping[str, Any]

    @classmethod
    def create(cls, path: Path, experiment: Experiment, *, name: str | None = None, reuse: bool = False) -> RunFolder:
        """Make a folder for a run that has not begun.

        A folder whose run never got as far as its first checkpoint is taken over. With `reuse`, a folder that holds
        this very run is opened.

        Raises:
            RunFolderError: there is a run in it already, this one or another.
        """
        if (path / "checkpoint.safetensors").exists():
            existing = cls.open(path)
            difference = _difference(to_table(existing.experiment), to_table(experiment))
            if reuse and not difference:
                return existing
            what = f"another run ({difference})" if difference else "this run already"
            raise RunFolderError(
                f"{path} holds {what}; go on with `decollapse resume {path}`, or choose another --out."
            )
        if path.exists() and not path.is_dir():
            raise RunFolderError(f"{path} is a file; --out takes a folder.")
        description = {"format": FORMAT, "name": name or path.name, "recipe": to_table(experiment)}
        folder = cls(path, experiment, description)
        try:
            path.mkdir(parents=True, exist_ok=True)
            with folder.locked():
                return folder._write()
        except OSError as error:
            raise RunFolderError(f"{path} cannot be written ({error.strerror}); choose another --out.") from error

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The run in an existing folder.

        Raises:
            RunFolderError: the folder holds no run, or one of another version of the format.
        """
        try:
            description = json.loads((path / "run.json").read_text())
            recipe = description["recipe"]
            experiment = from_table(recipe)
        except FileNotFoundError:
            raise RunFolderError(f"{path} holds no run: it has no run.json.") from None
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
            raise RunFolderError(f"{path / 'run.json'} is damaged ({error}); restore a copy of it.") from None
        if description.get("format") != FORMAT:
            raise RunFolderError(f"{path} has format {description.get('format')}, this version reads {FORMAT}.")
        return cls(path, experiment, description)

    @property
    def digest(self) -> str:
        """A digest of everything the weights depend on: the recipe without its length, engine and measurements.

        Of the recipe as it was written, so that a later version with more settings can go on with an old run.
        """
        recipe = {key: value for key, value in self.description["recipe"].items() if key not in IRRELEVANT_TO_WEIGHTS}
        recipe["dtype"] = self.description["recipe"]["engine"]["dtype"]
        return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def rounds_done(self) -> int | None:
        """Rounds in the checkpoint; None if there is none yet."""
        return state.round if (state := self.load()) else None

    def load(self) -> ServerState | None:
        """The state after the last whole round, or None before the first evaluation."""
        path = self.path / "checkpoint.safetensors"
        return load_checkpoint(path, recipe=self.digest) if path.exists() else None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing here.

        Raises:
            RunFolderError: one is writing now.
        """
        with (self.path / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunFolderError(f"another process is running {self.path} now; wait for it or end it.") from None
            yield

    def describe(self, prepared: Prepared) -> RunFolder:
        """Write down data, partition, model and machine; check them if this run has begun before.

        Raises:
            RunFolderError: the data are not those the run began with.
        """
        before = self.description.get("fingerprint")
        if before not in (None, prepared.fingerprint):
            raise RunFolderError(
                f"the data {self.experiment.data.name!r} are not those {self.path} began with; put the old ones back "
                "or begin a new run."
            )
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        facts = provenance(prepared)
        description = {"started": now, **facts, **self.description}
        where = {"versions": facts["versions"], "machine": facts["machine"]}
        if before is not None and any(description[key] != value for key, value in where.items()):
            description["resumed"] = [*description.get("resumed", []), {"at": now, **where}]
        return replace(self, description=description)._write()

    def save(self, record: RoundRecord, server: ServerState) -> None:
        """Keep a round: its record, its spectra and, last, the checkpoint that makes it count.

        Raises:
            OSError: the disk is full or cannot be written; the rounds before are as they were.
        """
        if (spectra := spectra_as_npz(record)) is not None:
            (self.path / "spectra").mkdir(exist_ok=True)
            write_atomically(self.path / "spectra" / f"round-{record.round:04d}.npz", spectra)
        with (self.path / "records.jsonl").open("a") as file:
            file.write(json.dumps(record_as_json(record)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        save_checkpoint(self.path / "checkpoint.safetensors", server, recipe=self.digest)

    def trim(self, rounds_done: int) -> None:
        """Drop the records of rounds beyond the checkpoint: they were cut short, and will be written again."""
        path = self.path / "records.jsonl"
        if path.exists():
            lines = [line for line in path.read_text().splitlines() if _round_of(line) <= rounds_done]
            write_atomically(path, "".join(line + "\n" for line in lines).encode())

    def _write(self) -> RunFolder:
        write_atomically(self.path / "run.json", json.dumps(self.description, indent=1).encode())
        return self


def continue_run(
    folder: RunFolder,
    *,
    prepared: Prepared | None = None,
    watch: Callable[[Engine], Engine] = lambda engine: engine,
) -> Iterator[tuple[RoundRecord, ServerState]]:
    """Run what is missing of `folder`, and save each round before it is yielded.

    Args:
        folder: a run that was created, begun or finished.
        prepared: its experiment with the data loaded, if the caller has that already.
        watch: wraps the engine, to see results as they come.
    """
    with folder.locked():
        state = folder.load()
        if state is not None and state.round >= folder.experiment.rounds:
            return
        prepared = prepared or prepare(folder.experiment)
        folder = folder.describe(prepared)
        folder.trim(-1 if state is None else state.round)
        for record, server in prepared.run(state, watch=watch):
            try:
                folder.save(record, server)
            except OSError as error:
                raise RunFolderError(
                    f"round {record.round} could not be saved in {folder.path} ({error.strerror}); the rounds before "
                    f"are safe: make room, then `decollapse resume {folder.path}`."
                ) from error
            yield record, server


def find_runs(paths: Sequence[Path]) -> list[RunFolder]:
    """The runs at `paths` and in the folders below them, sorted by path.

    Raises:
        RunFolderError: there is none at or below one of them.
    """
    if not paths:
        raise RunFolderError("this command needs at least one run folder, or a folder of run folders.")
    found: dict[Path, RunFolder] = {}
    for path in paths:
        if not path.exists():
            raise RunFolderError(f"there is no folder {path}.")
        files = [path / "run.json"] if (path / "run.json").exists() else sorted(path.rglob("run.json"))
        if not files:
            raise RunFolderError(f"{path} holds no run: there is no run.json in it or below it.")
        found |= {file.parent: RunFolder.open(file.parent) for file in files}
    return list(found.values())


def _round_of(line: str) -> float:
    """The round of a record, or infinity for a line that was cut short."""
    try:
        return int(json.loads(line)["round"])
    except (json.JSONDecodeError, KeyError):
        return math.inf


def _difference(before: Mapping[str, Any], after: Mapping[str, Any], where: str = "") -> str:
    """The first setting in which two recipes differ, in words; empty if they are the same."""
    for key in [*before, *(key for key in after if key not in before)]:
        old, new, name = before.get(key), after.get(key), f"{where}{key}"
        if isinstance(old, dict) and isinstance(new, dict):
            if inner := _difference(old, new, f"{name}."):
                return inner
        elif old != new:
            return f"{name} is {old!r} there and {new!r} here"
    return ""
