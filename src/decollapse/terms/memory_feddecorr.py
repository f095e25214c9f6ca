"""FedDecorr on a correlation matrix that a client remembers from its last batches.

Ours, on the loss of Shi et al. (ICLR 2023, https://arxiv.org/abs/2210.00226). The correlation of a batch of n has rank
n - 1 at most, so a batch of 64 shows 63 of 1280 dimensions. A client that remembers sees up to all of them:

    R     = mean of D over the batches so far, each with the weight (n - 1) memory^age      (no gradient)
    share = weight of the past / (weight of the past + n - 1)        0 in a round's first batch, then up to `memory`
    loss  = (1 - share) P(D) + share (2 <R, D> - <R, R>)             gradient 2 <(1 - share) D + share R, dD>

D, P and why the gradient is not multiplied by 1 - share: `terms/correlation_estimate.py`.

What to expect of it. For Gaussian features of correlation rho, `E K^2 = rho^2 + (1 - rho^2) (1 - 2 rho^2) / n` to first
order in 1 / n. So the mean of the batches' gradients is the gradient of the true rho^2 times `1 - (3 - 4 rho^2) / n`:
at n = 64 it is at most 5 % too small, however many dimensions there are. **That a batch has few dimensions is no bias,
it is noise.** Memory can lower the noise of the penalty's gradient, and pays with age: R is of features as they were
about 1 / (1 - memory) steps ago. It cannot do more.

The memory begins anew in every round, since averaging changes the features. One d x d product a step keeps it, and one
more, with its backward, uses it: 3 n d^2 multiplications, d^2 floats in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, get_args

import torch

from decollapse import tree
from decollapse.core import FEATURES
from decollapse.terms.correlation_estimate import decorrelation_around, estimate, with_batch
from decollapse.terms.feddecorr import Matrix, decorrelation_loss
from decollapse.terms.ranges import check_choice, check_positive, check_strength

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from decollapse.core import ModelState
    from decollapse.objective import Step, Trained
    from decollapse.tree import Tree


def remembering_decorrelation(
    features: Float[Tensor, "n d"], known: Tree, *, memory: float, matrix: Matrix = "correlation", eps: float = 1e-8
) -> Float[Tensor, ""]:
    """`decorrelation_loss` of a batch together with what is known of the batches before it.

    Args:
        features: the input of the classifier.
        known: from `with_batch`, or empty: then it is `decorrelation_loss`.
        memory: what is left of the past, 0 to below 1.
        matrix: as in `decorrelation_loss`.
        eps: added to the variance, > 0.

    >>> same, opposite = torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    >>> same, opposite = same.repeat(16, 1), opposite.repeat(16, 1)  # correlations of 1 and -1
    >>> known = with_batch({}, same, memory=0.5, matrix="correlation", eps=1e-8)
    >>> remembering_decorrelation(opposite, known, memory=0.5) / 62.015625  # a = 1/3: 2/3 (1) + 1/3 (-2 - 1)
    tensor(-0.3333)
    """
    past = memory * float(known["weight"]) if known else 0.0
    if past == 0.0:
        return decorrelation_loss(features, matrix=matrix, eps=eps)
    share = past / (past + max(len(features) - 1, 0))
    return decorrelation_around(features, estimate(known), share=share, matrix=matrix, eps=eps)


@dataclass(frozen=True)
class MemoryFedDecorr:
    """FedDecorr that sees more dimensions than a batch has examples: `beta * remembering_decorrelation`.

    Attributes:
        beta: strength, >= 0; means what it means in `FedDecorr`, whatever the memory.
        memory: what is left of a batch after the next, 0 to below 1; 0 is FedDecorr.
        matrix: "covariance" for a model without BatchNorm, see `FedDecorr`.
        eps: added to the variance, > 0.
        layers: names in `model.named_modules()`, or "features"; empty for the features alone. The mean over several.
    """

    name: ClassVar[str] = "memory_feddecorr"
    beta: float = 0.1
    memory: float = 0.9
    matrix: Matrix = "correlation"
    eps: float = 1e-8
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_strength(beta=self.beta)
        if not 0 <= self.memory < 1:
            raise ValueError(f"memory is what is left of the past, from 0 to below 1, got {self.memory}.")
        check_choice("matrix", self.matrix, get_args(Matrix))
        check_positive(eps=self.eps)

    def init_state(self, anchor: ModelState) -> Tree:
        """Nothing."""
        return {}

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The penalty of this batch and those before it."""
        if self.beta == 0.0:
            return step.output.features.new_zeros(())
        losses = [
            remembering_decorrelation(
                z, tree.under(step.state, f"{layer}/"), memory=self.memory, matrix=self.matrix, eps=self.eps
            )
            for layer, z in self._activations(step)
        ]
        return self.beta * torch.stack(losses).mean()

    def after_batch(self, step: Step) -> Tree:
        """The memory with this batch in it."""
        if self.beta == 0.0 or self.memory == 0.0:
            return {}
        memory: Tree = {}
        for layer, z in self._activations(step):
            own = f"{layer}/"
            known = with_batch(tree.under(step.state, own), z, memory=self.memory, matrix=self.matrix, eps=self.eps)
            memory |= tree.prefixed(known, own)
        return memory

    def next_state(self, state: Tree, trained: Trained) -> Tree:
        """Nothing: the next round's features are another model's."""
        return {}

    def _activations(self, step: Step) -> zip[tuple[str, Tensor]]:
        return zip(self.layers or (FEATURES,), step.output.at(self.layers), strict=True)
