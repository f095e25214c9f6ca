"""FedDyn: a regulariser that makes the clients' optima and the federation's agree.

Acar, Zhao, Matas, Mattina, Whatmough, Saligrama, "Federated Learning Based on Dynamic Regularization", ICLR 2021,
https://arxiv.org/abs/2111.04263, algorithm 1. The server's half is `server/feddyn.py`.

    loss:              L_i(w) - <g_i, w> + alpha / 2 ||w - w_g||^2
    after the round:   g_i <- g_i - alpha delta_i

Here d_i = -g_i / alpha, the form of the authors' code, so d_i is the sum of the client's past updates:

    loss:              L_i(w) + alpha <d_i, w - w_g> + alpha / 2 ||w - w_g||^2
    after the round:   d_i <- d_i + delta_i

Departures: `w - w_g` in place of w in the inner product, a constant; the authors' code clips the gradient without the
quadratic part, here is no clipping.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from decollapse import tree
from decollapse.terms.quadratic import linear_and_quadratic
from decollapse.terms.ranges import check_positive

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from decollapse.core import ModelState
    from decollapse.objective import Step, Trained
    from decollapse.tree import Tree


@dataclass(frozen=True)
class FedDyn:
    """Pulls a client to the global model, against the sum of its own past updates.

    Needs the server "feddyn" and the mean with uniform weights.

    Attributes:
        alpha: strength, > 0; 0.001 to 0.1. No value of it gives FedAvg: the server's correction does not depend on it.
    """

    name: ClassVar[str] = "feddyn"
    alpha: float = 0.01

    def __post_init__(self) -> None:
        check_positive(alpha=self.alpha)

    def init_state(self, anchor: ModelState) -> Tree:
        """No past updates."""
        return tree.zeros_like(anchor.params)

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The linear and the quadratic part."""
        linear = tree.scale(step.state, self.alpha)
        return linear_and_quadratic(step.params, step.anchor.params, linear=linear, strength=self.alpha)

    def next_state(self, state: Tree, trained: Trained) -> Tree:
        """One update more."""
        return tree.add(state, tree.sub(trained.local.params, trained.anchor.params))
