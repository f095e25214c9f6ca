"""FedDecorr with a strength that finds itself: it holds the batch's participation ratio at a target.

Ours. Shi et al. (ICLR 2023, https://arxiv.org/abs/2210.00226) choose beta by hand for each data set; the same beta is
too weak on one client and too strong on another. FedDecorr's loss is one over the participation ratio of the batch's
correlation spectrum, so what a client sees in a round says which way its own beta is wrong:

    log beta <- log beta + gain (log target - log measured),      within [smallest, largest]

`measured` is one over the mean loss of the round. A batch of n has at most n - 1 dimensions; one that cannot reach the
target is penalised like the others, but counts as on target: else a last batch of two examples would drive beta up for
good, and one of a single example down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from decollapse.terms.feddecorr import RELEASE_STRENGTH_AT_64, decorrelation_loss, trust
from decollapse.terms.ranges import check_positive

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from decollapse.core import ModelState
    from decollapse.objective import Step, Trained
    from decollapse.tree import Tree


@dataclass(frozen=True)
class AdaptiveFedDecorr:
    """FedDecorr whose beta each client adapts, from round to round, to a target participation ratio.

    Attributes:
        target: dimensions in use, > 0. A batch of n has at most n - 1, and never more than the feature dimension; where
            no batch has more than `target` + 1 examples, beta stays as it is.
        beta: strength in a client's first round, > 0; means what it means in `FedDecorr`, to a factor (d - 1) / d.
        gain: share of the gap, in logarithms, that a round closes, > 0; above 2 it overshoots for good.
        smallest: beta never falls below.
        largest: beta never rises above.
        layers: names in `model.named_modules()`, or "features"; empty for the features alone.
    """

    name: ClassVar[str] = "adaptive_feddecorr"
    target: float = 20.0
    beta: float = 0.03
    gain: float = 1.0
    smallest: float = 1e-4
    largest: float = 1.0
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_positive(target=self.target, beta=self.beta, gain=self.gain, smallest=self.smallest, largest=self.largest)
        if not self.smallest <= self.beta <= self.largest:
            raise ValueError(
                f"beta starts between smallest and largest, got {self.beta} and [{self.smallest}, {self.largest}]."
            )

    def init_state(self, anchor: ModelState) -> Tree:
        """The first round's beta."""
        return {"beta": torch.tensor(self.beta, dtype=torch.float64)}

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The paper's loss at this client's beta, in FedDecorr's scale; 1 / target in a batch that is too small."""
        loss = step.output.mean_over(self.layers, lambda z: decorrelation_loss(z, normalization="paper"))
        if len(step.output.features) - 1 <= self.target:
            loss = trust(len(step.output.features)) * (loss - loss.detach()) + 1 / self.target  # the gradient stays
        return float(step.state["beta"]) * RELEASE_STRENGTH_AT_64 * loss

    def next_state(self, state: Tree, trained: Trained) -> Tree:
        """The next round's beta; as it was if nothing finite was measured."""
        beta = float(state["beta"])
        loss = trained.metrics[self.name] / (beta * RELEASE_STRENGTH_AT_64)
        if not 0 < loss < math.inf:
            return state
        beta *= (self.target * loss) ** self.gain
        return {"beta": torch.tensor(min(max(beta, self.smallest), self.largest), dtype=torch.float64)}
