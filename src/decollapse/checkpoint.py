"""A server's state as one safetensors file: written whole or not at all, and checked when it is read."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from decollapse.core import ClientState, ModelState
from decollapse.server_state import ServerState
from decollapse.tree import Tree


class CheckpointError(ValueError):
    """A checkpoint is truncated, altered, or belongs to another recipe."""


def save_checkpoint(path: Path, server: ServerState, *, recipe: str) -> None:
    """Write `server`; a reader finds the old file or the new one, never a part of it.

    Args:
        path: the file.
        server: what to keep.
        recipe: a digest of what the numbers depend on; asked for again by `load_checkpoint`.

    Raises:
        OSError: the disk is full or cannot be written; the old file is as it was.
    """
    tensors = _flatten(server)
    metadata = {"round": str(server.round), "recipe": recipe}
    metadata["sha256"] = _digest(tensors, metadata)
    write_atomically(path, save(tensors, metadata))


def load_checkpoint(path: Path, *, recipe: str) -> ServerState:
    """Read what `save_checkpoint` wrote.

    Raises:
        CheckpointError: the file is truncated or altered, or was written by another recipe.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except SafetensorError as error:
        raise CheckpointError(f"{path} is truncated or no checkpoint ({error}); restore a copy of it.") from None
    if metadata.pop("sha256", None) != _digest(tensors, metadata):
        raise CheckpointError(f"{path} was altered after it was saved: its checksum differs; restore a copy of it.")
    if metadata["recipe"] != recipe:
        raise CheckpointError(
            f"{path} was saved by another recipe than its folder's; put back the recipe or start anew."
        )
    return _unflatten(int(metadata["round"]), tensors)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a temporary file beside `path`, force it to disk, and rename it."""
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _flatten(server: ServerState) -> Tree:
    groups: dict[str, Tree] = {
        "params": server.model.params,
        "buffers": server.model.buffers,
        "optimizer": server.optimizer,
        "shared": server.shared,
    }
    for client, state in server.clients.items():
        groups |= {f"client/{client}/{name}": tree for name, tree in state.items()}
    return {f"{group}|{name}": leaf.contiguous() for group, tree in groups.items() for name, leaf in tree.items()}


def _unflatten(round: int, tensors: Tree) -> ServerState:
    groups: dict[str, Tree] = {}
    for key, leaf in tensors.items():
        group, _, name = key.partition("|")
        groups.setdefault(group, {})[name] = leaf
    model = ModelState(groups.pop("params", {}), groups.pop("buffers", {}))
    optimizer, shared = groups.pop("optimizer", {}), groups.pop("shared", {})
    clients: dict[int, ClientState] = {}
    for group, tree in groups.items():
        _, client, name = group.split("/", 2)
        clients.setdefault(int(client), {})[name] = tree
    return ServerState(round, model, optimizer, clients, shared)


def _digest(tensors: Tree, metadata: dict[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        leaf = tensors[name].contiguous()
        digest.update(f"{name}{leaf.dtype}{tuple(leaf.shape)}".encode())
        digest.update(leaf.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
