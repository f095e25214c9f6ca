"""The restricted softmax of FedRS.

Li, Zhan, "FedRS: Federated Learning with Restricted Softmax for Label Distribution Non-IID Data", KDD 2021,
https://doi.org/10.1145/3447548.3467254. With logits s and n_c examples of class c on this client:

    L = cross_entropy(a * s, y),    a_c = 1 where n_c > 0, alpha elsewhere                (binary)
                                    a_c = alpha + (1 - alpha) n_c / max_k n_k             (graded)

A class the client does not have is only ever pushed away; alpha < 1 slows that down.

The binary form is that of the releases of FedDecorr and FedVLS, the graded one that of the authors (lxcnju/FedRepo).
Their logits have no bias; ours are the model's, bias included. Both forms are read from code, not from the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from torch.nn import functional as F

from decollapse.terms.ranges import check_choice, check_share

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from decollapse.objective import Step

Variant = Literal["binary", "graded"]


def restricted_softmax_loss(
    logits: Float[Tensor, "n classes"],
    y: Int[Tensor, "n"],
    class_counts: Int[Tensor, "classes"],
    *,
    alpha: float,
    graded: bool = False,
) -> Float[Tensor, ""]:
    """Mean cross-entropy of logits that are scaled down where the client has no, or few, examples.

    A factor pulls a logit towards 0 from either side, so an absent class with a negative logit weighs more than in the
    plain loss.

    Args:
        logits: of the local model.
        y: the labels.
        class_counts: how many training examples of each class the client holds.
        alpha: factor of an absent class, 0 to 1; 0 fixes its logit at 0, 1 is the plain loss.
        graded: let the factor grow with the count, up to 1 for the most frequent class, instead of 1 for all present.

    >>> import torch
    >>> restricted_softmax_loss(torch.tensor([[2.0, 2.0]]), torch.tensor([0]), torch.tensor([7, 0]), alpha=0.5)
    tensor(0.3133)
    """
    counts = class_counts.to(logits)
    present = (counts > 0).to(logits)
    factors = alpha + (1 - alpha) * counts / counts.max() if graded else present.clamp(min=alpha)
    return F.cross_entropy(logits * factors, y)


@dataclass(frozen=True)
class RestrictedSoftmax:
    """Slows the updates of classes a client does not have: `cross_entropy(a * logits, y)`.

    It takes the place of cross-entropy in an objective.

    Attributes:
        alpha: factor of an absent class's logit, 0 to 1; 1 is cross-entropy.
        variant: "binary" scales absent classes alone, "graded" every class by its count; see this module's equation.
    """

    name: ClassVar[str] = "restricted_softmax"
    alpha: float = 0.5
    variant: Variant = "binary"

    def __post_init__(self) -> None:
        check_share(alpha=self.alpha)
        check_choice("variant", self.variant, get_args(Variant))

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The loss of this batch."""
        graded = self.variant == "graded"
        return restricted_softmax_loss(
            step.output.logits, step.y, step.data.class_counts, alpha=self.alpha, graded=graded
        )
