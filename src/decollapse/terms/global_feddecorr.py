"""FedDecorr on the correlation matrix of the whole federation, which the server averages and broadcasts.

Ours, on the loss of Shi et al. (ICLR 2023, https://arxiv.org/abs/2210.00226). FedDecorr makes each client spread
its own features: `sum_k p_k P(D_k)`, D_k the correlation matrix of client k without its diagonal and P the mean of the
squares. But a client with two classes may need few dimensions, and the federation many. What the federation wants
small is `P(G)` with `G = sum_k p_k D_k`, by convexity a lower bound. Its gradient is `sum_k p_k 2 <G, dD_k>`, so

    loss of client k = 2 <R, D_k> - <R, R>,      R: G of the last round, from the server      (the tangent of P at R)

and the mean of FedAvg, with the same p_k, is a step on P(G). It does not ask a client to decorrelate what other clients
decorrelate already: two clients with correlations 1 and -1 have G = 0 and no penalty. With `mix` below 1 the client's
own penalty is part of it,

    loss = (1 - mix) P(D_k) + mix (2 <R, D_k> - <R, R>),

and in FedDecorr's scale (`terms/correlation_estimate.py`): where all clients agree, it is FedDecorr for every mix. In
the first round there is no R, and it is FedDecorr. Every client sends its mean D over the batches of the round, each
with the weight n - 1, and the server averages these with the weights of the aggregator.

Departures from the exact gradient. R is of the cohort before, a round old, and of models on their way. G leaves out
what differs between the clients' means: the correlation of the pooled features would count it, but its tangent has no
lower bound in the scale of the features, while `<R, D_k>` has.

It works with every server optimiser, and with the aggregators that average what clients send beside their update: the
weighted and the normalised mean, not the robust rules, which refuse. Sent per client and round, both ways: d^2 numbers
a layer. A client's correlations tell about its data; a secure sum of them is enough. One d x d product a step measures,
one more with its backward uses: 3 n d^2 multiplications.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, get_args

import torch

from decollapse import tree
from decollapse.core import FEATURES
from decollapse.terms.correlation_estimate import decorrelation_around, estimate, with_batch
from decollapse.terms.feddecorr import Matrix, decorrelation_loss
from decollapse.terms.ranges import check_choice, check_positive, check_share, check_strength

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from decollapse.core import ModelState
    from decollapse.objective import Step, Trained
    from decollapse.tree import Tree


@dataclass(frozen=True)
class GlobalFedDecorr:
    """FedDecorr that spreads the federation's features more than each client's: see this module.

    Attributes:
        beta: strength, >= 0; means what it means in `FedDecorr`; 0 costs and sends nothing.
        mix: share of the federation in the penalty, 0 to 1; the rest is the client's own. 0 is FedDecorr, and sends
            nothing.
        matrix: "covariance" for a model without BatchNorm, see `FedDecorr`.
        eps: added to the variance, > 0.
        layers: names in `model.named_modules()`, or "features"; empty for the features alone. The mean over several.
    """

    name: ClassVar[str] = "global_feddecorr"
    beta: float = 0.1
    mix: float = 1.0
    matrix: Matrix = "correlation"
    eps: float = 1e-8
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_strength(beta=self.beta)
        check_share(mix=self.mix)
        check_choice("matrix", self.matrix, get_args(Matrix))
        check_positive(eps=self.eps)

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The penalty of this batch, at what the server knows of the federation."""
        if self.beta == 0.0:
            return step.output.features.new_zeros(())
        of_all = tree.under(step.broadcast.extras, f"{self.name}/")
        losses = [
            decorrelation_around(z, of_all[layer], share=self.mix, matrix=self.matrix, eps=self.eps)
            if layer in of_all
            else decorrelation_loss(z, matrix=self.matrix, eps=self.eps)
            for layer, z in self._activations(step)
        ]
        return self.beta * torch.stack(losses).mean()

    def init_state(self, anchor: ModelState) -> Tree:
        """Nothing."""
        return {}

    def after_batch(self, step: Step) -> Tree:
        """The sums over the batches of this round."""
        sums: Tree = {}
        for layer, z in self._activations(step) if self._listens else ():
            own = f"{layer}/"
            known = with_batch(tree.under(step.state, own), z, memory=1.0, matrix=self.matrix, eps=self.eps)
            sums |= tree.prefixed(known, own)
        return sums

    def next_state(self, state: Tree, trained: Trained) -> Tree:
        """Nothing: what the client measured, it sends."""
        return {}

    def upload(self, before: Tree, after: Tree) -> Tree:
        """The client's mean D and the number 1; zeros for both from a client that had no batch of two examples."""
        sent: Tree = {}
        for layer in self._layers if self._listens else ():
            known = tree.under(before, f"{layer}/")
            sent |= {f"{layer}/D": estimate(known), f"{layer}/known": (known["weight"] > 0).double()}
        return sent

    def share(self, shared: Tree, mean: Tree) -> Tree:
        """G of each layer; the last one where no client of the cohort could measure it.

        Raises:
            ValueError: the aggregator dropped what the clients sent.
        """
        if not self._listens:
            return {}
        if not mean:
            raise ValueError(
                f'the term "{self.name}" needs the mean of the correlations that its clients send, and this aggregator '
                "leaves it out; use weighted_mean or normalized_mean."
            )
        return shared | {
            layer: mean[f"{layer}/D"] / float(known) for layer in self._layers if (known := mean[f"{layer}/known"]) > 0
        }

    @property
    def _listens(self) -> bool:
        return self.beta > 0 and self.mix > 0

    @property
    def _layers(self) -> tuple[str, ...]:
        return self.layers or (FEATURES,)

    def _activations(self, step: Step) -> zip[tuple[str, Tensor]]:
        return zip(self._layers, step.output.at(self.layers), strict=True)
