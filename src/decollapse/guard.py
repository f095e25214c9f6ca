"""Keeps an unusable update out of the average.

A plain mean takes NaN from one client and the run is over. Here an update with NaN, infinity, or tensors that are not
the model's is caught before it is aggregated, and named: client, round, first offending tensor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch

from decollapse import tree
from decollapse.core import MEASURED, Broadcast, ClientResult, ClientState
from decollapse.tree import Tree

GuardPolicy = Literal["reject", "abort", "clip"]


class UnusableUpdateError(RuntimeError):
    """A client sent an update that cannot be averaged, and the policy is `abort`."""


@dataclass(frozen=True)
class Rejection:
    """An update that did not enter the average as it came: whose, and why."""

    client: int
    reason: str


def guarded(
    result: ClientResult, broadcast: Broadcast, policy: GuardPolicy, *, state: ClientState | None = None
) -> tuple[ClientResult | None, Rejection | None]:
    """The result to aggregate, if any, and the note to keep, if any. With a note, the client keeps its old state.

    `reject` leaves an unusable result out. `abort` ends the run. `clip` puts 0 in place of each non-finite entry of an
    update and the broadcast's value in place of each non-finite buffer entry. Tensors that are not the model's are
    rejected all the same, and so is a client that keeps a state, which would no longer agree with its update. A client
    that sent no update is noted under every policy.

    Raises:
        UnusableUpdateError: the result is unusable and the policy is `abort`.
    """
    if result.failure is not None:
        return None, Rejection(result.client, result.failure)
    mismatch = _mismatch(result, broadcast)
    reason = mismatch or _non_finite(result, state or {})
    if reason is None:
        return result, None
    if policy == "abort":
        raise UnusableUpdateError(
            f"round {broadcast.round}, client {result.client}: {reason}; a smaller local learning rate may help, "
            'or guard = "reject" goes on without this client.'
        )
    if policy == "reject" or mismatch or state:
        return None, Rejection(result.client, reason)
    return _clipped(result, broadcast), Rejection(result.client, f"{reason}; non-finite entries put back")


def _mismatch(result: ClientResult, broadcast: Broadcast) -> str | None:
    """How the result's tensors differ from the model's, if they do."""
    params, buffers = broadcast.model.params, broadcast.model.buffers
    personal = {name: params[name] for name in result.buffers.keys() & params.keys()}
    for kind, sent, expected in (("update", result.delta, params), ("buffers", result.buffers, buffers | personal)):
        if sent.keys() != expected.keys():
            names = sorted(sent.keys() ^ expected.keys())
            return f"the {kind} and the model differ in {names[0]!r}"
        for name, leaf in sent.items():
            if leaf.shape != expected[name].shape:
                return f"{name!r} has shape {tuple(leaf.shape)}, the model's has {tuple(expected[name].shape)}"
            if leaf.dtype != expected[name].dtype:
                return f"{name!r} is {leaf.dtype}, the model's is {expected[name].dtype}"
    return None


def _non_finite(result: ClientResult, state: ClientState) -> str | None:
    """The first tensor with a NaN or an infinity, if there is one."""
    delta = {} if math.isfinite(result.squared_norm) else result.delta  # a sum of squares tells of all at once
    for sent, where in (
        (delta, ""),
        (result.buffers, ""),
        ({name: leaf for name, leaf in result.extras.items() if not name.startswith(MEASURED)}, ""),
        *((kept, f" of {term}") for term, kept in state.items()),
    ):
        for name, leaf in sent.items():
            if not torch.isfinite(leaf).all():
                return f"{name!r}{where} has NaN or infinite values"
    return None


def _clipped(result: ClientResult, broadcast: Broadcast) -> ClientResult:
    def repair(sent: Tree, instead: Tree) -> Tree:
        return {name: torch.where(torch.isfinite(leaf), leaf, instead[name]) for name, leaf in sent.items()}

    return replace(
        result,
        delta=repair(result.delta, tree.zeros_like(result.delta)),
        buffers=repair(result.buffers, broadcast.model.params | broadcast.model.buffers),
        extras=repair(result.extras, tree.zeros_like(result.extras)),
    )
