"""What a client of a secure sum remembers between two messages, each of which is a process of its own.

    FOLDER/secure-<run>/client-<number>.safetensors    secrets as JSON in the header, states as tensors; mode 0600
    FOLDER/secure-<run>/client-<number>.lock           held from the question to the answer

Two processes must never answer for one client at the same time: each could tell the server what the other must not have
told. Nothing is unpickled.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from decollapse.checkpoint import write_atomically
from decollapse.core import ClientState
from decollapse.secure.client import ClientSecrets
from decollapse.secure.participant import Memory
from decollapse.tree import Tree

STATE, PENDING = "state/", "pending/"


class MemoryLostError(ValueError):
    """What a client remembers cannot be read."""


def default_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Below Flower's home where that is set, else below the user's state folder.

    >>> default_folder({"FLWR_HOME": "/srv/flwr", "HOME": "/home/a"}).as_posix()
    '/srv/flwr/decollapse'
    >>> default_folder({"HOME": "/home/a"}).as_posix()
    '/home/a/.local/state/decollapse'
    """
    if home := environment.get("FLWR_HOME"):
        return Path(home) / "decollapse"
    state = environment.get("XDG_STATE_HOME") or Path(environment.get("HOME") or Path.home()) / ".local" / "state"
    return Path(state) / "decollapse"


@dataclass(frozen=True)
class MemoryFile:
    """The memory of one client in one run.

    Attributes:
        folder: of the node's user alone; made where it is missing.
        run: random, of the run; see `Session`.
        client: its number.
    """

    folder: Path
    run: bytes
    client: int

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / f"secure-{self.run.hex()}" / f"client-{self.client}.safetensors"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder, and wait for other processes that answer for this client."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def load(self) -> Memory:
        """What was saved; nothing where that never happened.

        Raises:
            MemoryLostError: the file is damaged, or of another client or run.
        """
        if not self.path.exists():
            return Memory()
        try:
            with safe_open(self.path, framework="pt") as file:
                header = json.loads((file.metadata() or {})["memory"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
            memory = _from_parts(header, tensors)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise MemoryLostError(f"{self.path} is damaged ({error}); the client is out of this run's sums.") from None
        known = memory.secrets
        if known is None or (known.run, known.client) != (self.run, self.client):
            raise MemoryLostError(f"{self.path} is the memory of another client or run; put it back where it was.")
        return memory

    def save(self, memory: Memory) -> None:
        """Replace the file, for the eyes of its user alone."""
        self.path.with_name(self.path.name + ".part").touch(mode=0o600)  # which the file that is written there keeps
        header, tensors = _parts(memory)
        write_atomically(self.path, save(tensors, {"memory": json.dumps(header)}))


def _parts(memory: Memory) -> tuple[dict[str, Any], Tree]:
    """The memory as JSON and tensors."""
    known = memory.secrets
    if known is None:
        raise ValueError("a memory without secrets is of no run, and is not saved.")
    number, pending = (None, {}) if memory.pending is None else memory.pending
    trees = {STATE + name: tree for name, tree in memory.state.items()}
    trees |= {PENDING + name: tree for name, tree in pending.items()}
    header = {
        "client": known.client,
        "run": known.run.hex(),
        "root": known.root.hex(),
        "masked": {str(sum): digest.hex() for sum, digest in known.masked.items()},
        "unmasked": {str(sum): survivors for sum, survivors in known.unmasked.items()},
        "pending": number,
        "trees": {name: list(tree) for name, tree in trees.items()},
    }
    # Cloned: a term may give the state it got, and safetensors takes no two tensors of one memory.
    return header, {f"{name}|{leaf}": tree[leaf].clone().contiguous() for name, tree in trees.items() for leaf in tree}


def _from_parts(header: Mapping[str, Any], tensors: Tree) -> Memory:
    secrets = ClientSecrets(
        header["client"],
        bytes.fromhex(header["run"]),
        bytes.fromhex(header["root"]),
        {int(sum): bytes.fromhex(digest) for sum, digest in header["masked"].items()},
        {int(sum): tuple(survivors) for sum, survivors in header["unmasked"].items()},
    )

    def states(prefix: str) -> ClientState:
        return {
            name.removeprefix(prefix): {leaf: tensors[f"{name}|{leaf}"] for leaf in leaves}
            for name, leaves in header["trees"].items()
            if name.startswith(prefix)
        }

    pending = None if header["pending"] is None else (header["pending"], states(PENDING))
    return Memory(secrets, states(STATE), pending)
