"""Outputs of other weights in the architecture a client trains: teachers, previous and global models.

In eval mode and without gradient, so that neither BatchNorm's statistics nor dropout's random numbers are touched.
Without augmentation a client sees the same inputs in every epoch, so each model runs over them once a round.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call

from decollapse.core import ClientData, ModelState, Output
from decollapse.models.activations import recorded
from decollapse.tree import Tree

REMEMBERED = 4
"""Other models at a time; a term that makes a new one every step must not fill the memory."""


@dataclass(frozen=True, eq=False)
class FrozenModels:
    """Runs other weights in `model`, and remembers what they gave.

    Attributes:
        model: the architecture; its own weights are left alone.
        layers: recorded in every output.
        data: the client's examples, where the model sees them the same in every epoch; None where it does not.
        batch_size: examples a forward pass.
    """

    model: nn.Module
    layers: tuple[str, ...]
    data: ClientData | None
    batch_size: int
    _known: dict[tuple[int, int], _Known] = field(default_factory=dict)

    def output(self, other: ModelState, x: Tensor, rows: Tensor) -> Output:
        """The output of the weights `other` on the batch `x`, the examples `rows` of the client."""
        key = id(other.params), id(other.buffers) if other.buffers else 0
        known = self._known.get(key)
        if known is None:
            if len(self._known) == REMEMBERED:
                self._known.pop(next(iter(self._known)))
            known = self._known[key] = _Known(other, self._laid_out(other))
        if self.data is None:
            return self._run(known.weights, x)
        if known.output is None:
            inputs = (self.data.preprocess(batch).to(x.dtype) for batch in self.data.x.split(self.batch_size))
            known.output = _joined([self._run(known.weights, batch) for batch in inputs])
        whole = known.output
        layers = {name: leaf[rows] for name, leaf in whole.layers.items()}
        return Output(whole.logits[rows], whole.features[rows], layers)

    def _laid_out(self, other: ModelState) -> Tree:
        """`other` in the memory layout of the model: what a convolution rounds to depends on it, and its speed."""
        own = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        sent = other.params | other.buffers
        with torch.no_grad():
            return {name: torch.empty_like(own[name]).copy_(leaf) for name, leaf in sent.items()}

    def _run(self, weights: Tree, x: Tensor) -> Output:
        self.model.eval()
        with torch.no_grad(), recorded(self.model, self.layers) as layers:
            output: Output = functional_call(self.model, weights, (x,))
        self.model.train()
        return Output(output.logits, output.features, dict(layers))


@dataclass
class _Known:
    """What is known of other weights: they themselves, which keeps their identity theirs, and what they gave."""

    other: ModelState
    weights: Tree
    output: Output | None = None


def _joined(outputs: list[Output]) -> Output:
    return Output(
        torch.cat([output.logits for output in outputs]),
        torch.cat([output.features for output in outputs]),
        {name: torch.cat([output.layers[name] for output in outputs]) for name in outputs[0].layers},
    )
