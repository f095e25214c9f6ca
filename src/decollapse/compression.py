"""Updates in half the bytes: float16 on the way to the server, with a power of two for each tensor.

    e     = exponent of the largest finite |delta_j|,  2^(e - 1) <= max |delta_j| < 2^e
    sent  = float16(delta * 2^(15 - e))
    delta = sent * 2^(e - 15)

A power of two changes no digit, so all that is lost is the rounding to float16's 11 binary digits: at most 2^-11
(0.05 %) of an entry that is at least 2^-28 of its tensor's largest, and 2^-39 of the largest for smaller ones. Without
the exponent, float16 would overflow beyond 65504 and lose digits below 6e-5.

The broadcast stays as it is: the server adds updates to the model that it has, and that is the one to start from. So do
buffers, extras and measurements: BatchNorm's statistics are a small part of a model, and small eigenvalues are what a
collapsed spectrum is known by.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from decollapse import tree
from decollapse.core import Broadcast, ClientCall, ClientData, ClientResult, ClientState
from decollapse.engines import Engine
from decollapse.tree import Tree

EXPONENTS = "float16_exponents/"
"""Prefix of the exponents e among the extras of a result on its way."""
LARGEST = 15
"""Entries are sent as less than 2^15, below float16's overflow also when they are rounded up."""
REACH = 1000
"""Of exponents, at most: 2^1024 is more than float64 holds."""


@dataclass(frozen=True, eq=False)
class Float16Updates:
    """An engine around an engine: clients send their updates in float16, the server has them in the model's dtype.

    A run takes it with `prepared.run(watch=Float16Updates)`. Rounding happens where a client trains, so every engine
    gives the same bits; the stacked one trains clients one by one. Not around secure aggregation, whose sums have an
    encoding of their own.

    Attributes:
        engine: where the clients run.
    """

    engine: Engine

    def run(
        self, call: ClientCall, broadcast: Broadcast, cohort: Sequence[int], states: Mapping[int, ClientState]
    ) -> Iterator[tuple[ClientResult, ClientState]]:
        """See `Engine.run`.

        Raises:
            ValueError: as `decompressed`.
        """
        for result, state in self.engine.run(SendFloat16(call), broadcast, cohort, states):
            yield decompressed(result, broadcast.model.params), state


@dataclass(frozen=True)
class SendFloat16:
    """A client call around a client call, which sends the update of `train` in float16.

    Attributes:
        train: the client call that trains.
    """

    train: ClientCall

    def __call__(
        self, model: nn.Module, data: ClientData, broadcast: Broadcast, state: ClientState
    ) -> tuple[ClientResult, ClientState]:
        """The result of `train`, compressed; what the client keeps is not rounded."""
        result, state = self.train(model, data, broadcast, state)
        return compressed(result), state


def compressed(result: ClientResult) -> ClientResult:
    """`result` with its update in float16 and the exponents among its extras; NaN and infinities stay what they are.

    >>> update = {"w": torch.tensor([3e-9, 1e-9])}
    >>> sent = compressed(ClientResult(0, 1, 1, delta=update, buffers={}, metrics={}))
    >>> sent.delta["w"].dtype, decompressed(sent, update).delta
    (torch.float16, {'w': tensor([2.9995e-09, 1.0004e-09])})
    """
    exponents = {name: _exponent(leaf) for name, leaf in result.delta.items()}
    delta = {name: _times(leaf, LARGEST - exponents[name]).to(torch.float16) for name, leaf in result.delta.items()}
    sent = {EXPONENTS + name: torch.tensor(exponent, dtype=torch.int16) for name, exponent in exponents.items()}
    return replace(result, delta=delta, extras=result.extras | sent)


def decompressed(result: ClientResult, like: Tree) -> ClientResult:
    """The result that was compressed, its update in the dtypes of `like`.

    What is no float16 with an exponent, or has no counterpart in `like`, is left as it came: for the guard to name.

    Raises:
        ValueError: the result is a mean of several clients, whose exponents differ.
    """
    if result.members:
        raise ValueError(
            "a secure sum adds numbers of one encoding, and float16 updates have an exponent each; use one of the two."
        )
    exponents = tree.under(result.extras, EXPONENTS)
    delta = {
        name: _times(leaf, int(exponents[name]) - LARGEST).to(like[name].dtype)
        if name in like and _in_float16(leaf, exponents.get(name))
        else leaf
        for name, leaf in result.delta.items()
    }
    extras = {name: leaf for name, leaf in result.extras.items() if not name.startswith(EXPONENTS)}
    return replace(result, delta=delta, extras=extras)


def num_bytes(*trees: Tree) -> int:
    """What the entries of all tensors take, in bytes.

    >>> num_bytes({"w": torch.zeros(10)}, {"steps": torch.tensor(3)})
    48
    """
    return sum(leaf.nbytes for leaves in trees for leaf in leaves.values())


def _exponent(leaf: Tensor) -> int:
    """The e of the largest finite entry; 0 for a tensor without one that is not 0."""
    finite = torch.where(leaf.isfinite(), leaf, 0).abs()
    return math.frexp(float(finite.max()))[1] if finite.numel() else 0


def _in_float16(leaf: Tensor, exponent: Tensor | None) -> bool:
    """Whether these are what `compressed` makes; they may be anything a stranger sent."""
    return (
        exponent is not None
        and leaf.dtype == torch.float16
        and exponent.dtype == torch.int16
        and exponent.shape == torch.Size()
    )


def _times(leaf: Tensor, exponent: int) -> Tensor:
    """`leaf * 2^exponent` in float64, where both factors of any float32 are exact."""
    return leaf.double() * 2.0 ** max(-REACH, min(REACH, exponent))
