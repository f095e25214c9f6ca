"""FedRCL: supervised contrast between a client's features, relaxed so that a class does not shrink to a point.

Seonguk Seo, Jinkyu Kim, Geeho Kim, Bohyung Han, "Relaxed Contrastive Learning for Federated Learning", CVPR 2024,
https://arxiv.org/abs/2401.04928. Authors' code: https://github.com/skynbe/FedRCL.

With s_bi the cosine similarity of the features of examples b and i of the batch, and T the temperature:

    s+         = the least of s_bi over the examples i of b's class, b itself among them
    s-         = the two greatest of s_bi over the examples of other classes
    contrast   = mean_b -log[ exp(s+ / T) / (exp(s+ / T) + sum exp(s- / T)) ]
    relaxation = mean_b log(1 + exp((s+ - 1) / T))  where s+ >= threshold and b is not alone in its class, else 0
    L          = contrast + penalty * relaxation

The formulas, their pairs and the defaults are those of the authors' code. It uses the outputs of the stem and of every
stage of a ResNet before their ReLU, averaged over pixels; name those in `layers`. It also runs the global model, for an
alignment loss with a weight of 0 that is not here.

Departures. The code's relaxation takes the least similarity to the *other* examples of the class; where there are any,
that is s+. Where the relaxation is 0 here, the code's is the constant log(1 + exp(-2 / T)), 4e-18 at its T. A vector
shorter than 1e-8 has no direction: its similarities, and their gradients, are 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn import functional as F

from decollapse.terms.ranges import check_positive, check_strength

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from decollapse.objective import Step

_NUM_NEGATIVES = 2


def relaxed_contrastive_loss(
    features: Float[Tensor, "n d"],
    y: Int[Tensor, "n"],
    *,
    penalty: float = 1.0,
    temperature: float = 0.05,
    threshold: float = 0.7,
) -> Float[Tensor, ""]:
    """Contrast between the classes of a batch plus `penalty` times the relaxation within them.

    A batch of one class has no contrast, an example without another of its class no relaxation: those parts are 0.

    Args:
        features: one vector an example; their lengths do not matter.
        y: labels.
        penalty: weight of the relaxation, >= 0.
        temperature: > 0.
        threshold: -1 to 1; an example is pushed from the least similar one of its class from this similarity on.

    >>> relaxed_contrastive_loss(torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 0]))
    tensor(0.6931)
    """
    norm: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    directions = features / norm.where(norm > 1e-8, torch.inf)
    similarity = directions @ directions.T
    same = y[:, None] == y

    positive = similarity.where(same, torch.inf).amin(dim=1)
    negatives = similarity.where(~same, -torch.inf).topk(min(_NUM_NEGATIVES, len(y)), dim=1).values
    contrast = -(torch.cat([positive[:, None], negatives], dim=1) / temperature).log_softmax(dim=1)[:, 0]

    too_close = (positive >= threshold) & (same.sum(dim=1) > 1)
    relaxation = F.softplus((positive.where(too_close, -torch.inf) - 1) / temperature)
    return (contrast + penalty * relaxation).mean()


@dataclass(frozen=True)
class RelaxedContrastive:
    """Keeps classes apart and each of them spread: `strength * relaxed_contrastive_loss(features, y)`.

    Attributes:
        strength: >= 0 and finite; 0 is FedAvg.
        penalty: weight of the relaxation within `strength`, >= 0 and finite; 0 leaves the contrast alone.
        temperature: > 0 and finite.
        threshold: cosine similarity, -1 to 1, from which on two examples of a class are too close.
        layers: names in `model.named_modules()` whose activations are used, or "features"; empty for the features.
    """

    name: ClassVar[str] = "relaxed_contrastive"
    strength: float = 1.0
    penalty: float = 1.0
    temperature: float = 0.05
    threshold: float = 0.7
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_strength(strength=self.strength, penalty=self.penalty)
        check_positive(temperature=self.temperature)
        if not -1 <= self.threshold <= 1:
            raise ValueError(f"threshold is a cosine similarity from -1 to 1, got {self.threshold}.")

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The loss of this batch, a mean over `layers`."""
        return step.output.penalty(
            self.layers,
            lambda z: relaxed_contrastive_loss(
                z, step.y, penalty=self.penalty, temperature=self.temperature, threshold=self.threshold
            ),
            strength=self.strength,
        )
