"""FedUV: let a client's predictions and features vary as much as they would on IID data.

Ha Min Son, Moon-Hyun Kim, Tai-Myoung Chung, Chao Huang, Xin Liu, "FedUV: Uniformity and Variance for Heterogeneous
Federated Learning", CVPR 2024, https://arxiv.org/abs/2402.18372. Authors' code: https://github.com/sonhamin/FedUV.
FedUV is cross-entropy with both terms of this file; either may be used alone.

    V = mean over classes c of relu(1 / sqrt(C) - std over the batch of softmax(logits)_c)
    U = mean over pairs b < b' of exp(-||z_b - z_b'||^2 / sigma^2),   sigma^2 = median of the non-zero ||z_b - z_b'||^2

The formulas are those of the authors' code; standard deviations are unbiased, sigma^2 is part of the graph, and z is
not normalised, so that U depends on ratios of distances only. There, z is the output of two layers of Linear, BatchNorm
and ReLU in front of the classifier. They belong to the model, not to these terms.

Departures: batches on which the code gives NaN. Both losses of one example are 0. Where no two features are further
apart than 1e-6, U is 1 and all but flat; nearer pairs than that are left out of the median, which bounds the gradient
where features nearly agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn import functional as F

from decollapse.terms.ranges import check_strength

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from decollapse.objective import Step

_IDENTICAL = 1e-12
"""Squared distance up to which two features pass for the same."""


def classifier_variance_loss(logits: Float[Tensor, "n classes"]) -> Float[Tensor, ""]:
    """How far the predictions of a batch are from varying as one-hot labels of all classes would.

    1 / sqrt(C), the largest value, where every example gets the same prediction. 0 for C one-hot predictions, one of
    each class; the same in a larger batch vary less, sqrt(n / (n - 1) * (C - 1)) / C a class, and cost a little:
    0.302 is short of 0.316 for C = 10, n = 64. One example costs 0.

    >>> classifier_variance_loss(torch.zeros(8, 4)), classifier_variance_loss(100 * torch.eye(4))
    (tensor(0.5000), tensor(0.))
    """
    n, num_classes = logits.shape
    if n < 2:
        return logits.sum() * 0.0
    return F.relu(num_classes**-0.5 - logits.softmax(dim=1).std(dim=0)).mean()


def hyperspherical_uniformity_loss(features: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """How unevenly a batch of features is spread, from 0 to 1; the unit of distance is the batch's own median.

    Unchanged by a shift, a rotation or a change of scale. 1 / e where all distances are equal. 1 where all features
    are; there the gradient is 0, and it cannot part them. One example costs 0.

    >>> triangle = torch.eye(3)
    >>> hyperspherical_uniformity_loss(triangle), hyperspherical_uniformity_loss(torch.ones(3, 2))
    (tensor(0.3679), tensor(1.))
    """
    if len(features) < 2:
        return features.sum() * 0.0
    distance = torch.pdist(features).square()
    median = distance.where(distance > _IDENTICAL, torch.nan).nanmedian()
    return torch.exp(-distance / median.nan_to_num(nan=1.0)).mean()


@dataclass(frozen=True)
class ClassifierVariance:
    """Keeps a client's classifier from favouring few classes: `strength * classifier_variance_loss(logits)`.

    Attributes:
        strength: the paper's lambda, >= 0 and finite; 0 is FedAvg. The default is that of the authors' code.
    """

    name: ClassVar[str] = "classifier_variance"
    strength: float = 2.5

    def __post_init__(self) -> None:
        check_strength(strength=self.strength)

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The penalty of this batch."""
        if self.strength == 0.0:
            return step.output.features.new_zeros(())
        return self.strength * classifier_variance_loss(step.output.logits)


@dataclass(frozen=True)
class HypersphericalUniformity:
    """Spreads a client's features evenly: `strength * hyperspherical_uniformity_loss(features)`.

    Attributes:
        strength: the paper's mu, >= 0 and finite; 0 is FedAvg. The default is that of the authors' code.
        layers: names in `model.named_modules()` whose activations are used, or "features"; empty for the features.
    """

    name: ClassVar[str] = "hyperspherical_uniformity"
    strength: float = 0.5
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_strength(strength=self.strength)

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The penalty of this batch, a mean over `layers`."""
        return step.output.penalty(self.layers, hyperspherical_uniformity_loss, strength=self.strength)
