"""SCAFFOLD: control variates take each client's own direction out of its gradient.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning",
ICML 2020, https://arxiv.org/abs/1910.06378, algorithm 1, option II. The server's half is `server/scaffold.py`.

    every local step:  g <- g - c_i + c
    after them:        c_i <- c_i - c - delta_i / (tau lr)

The correction is the gradient of `<c - c_i, w - w_g>`, so it is a term: it goes through momentum and weight decay like
the rest of the gradient. Departures. With momentum, `tau lr` is the size of the update that a constant gradient would
have caused ("adaptive division" in later code); without it c would be about 1 / (1 - momentum) too large. Option I, a
pass over all examples at the anchor, is not built.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from decollapse import tree
from decollapse.terms.quadratic import linear_and_quadratic

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from decollapse.core import ModelState
    from decollapse.objective import Step, Trained
    from decollapse.tree import Tree

VARIATE = "scaffold/"
"""Prefix of the server's variate in a broadcast, and of the change of a client's in its result."""


@dataclass(frozen=True)
class Scaffold:
    """Corrects every local gradient by `c - c_i`: the server's control variate minus the client's own.

    Needs the server "scaffold" and the mean with uniform weights. Plain SGD as in the paper, or SGD with momentum.
    """

    name: ClassVar[str] = "scaffold"

    def init_state(self, anchor: ModelState) -> Tree:
        """A variate of zeros."""
        return tree.zeros_like(anchor.params)

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """`<c - c_i, w - w_g>`."""
        correction = tree.sub(_variate(step.broadcast.extras), step.state)
        return linear_and_quadratic(step.params, step.anchor.params, linear=correction)

    def next_state(self, state: Tree, trained: Trained) -> Tree:
        """Option II: the mean corrected gradient of the round, freed of the correction.

        Raises:
            ValueError: the local optimiser has no step size (Adam).
        """
        if trained.step_size is None:
            raise ValueError(
                "SCAFFOLD divides a client's update by its step size, which SGD has and this local optimiser has not; "
                "use sgd."
            )
        c = _variate(trained.broadcast.extras)
        delta = tree.sub(trained.local.params, trained.anchor.params)
        return {
            name: torch.add(leaf - c[name], delta[name], alpha=-1 / trained.step_size) for name, leaf in state.items()
        }

    def upload(self, before: Tree, after: Tree) -> Tree:
        """The change of the client's variate."""
        return tree.sub(after, before)


def _variate(extras: Tree) -> Tree:
    c = tree.under(extras, VARIATE)
    if not c:
        raise ValueError('the term "scaffold" needs the server\'s control variate; set server = "scaffold".')
    return c
