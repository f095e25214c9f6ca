"""Balanced softmax: the loss knows how frequent the classes are, so that the logits need not.

Ren, Yu, Sheng, Ma, Zhao, Yi, Li, "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS 2020,
https://arxiv.org/abs/2007.10740. With logits s and n_c of this client's n examples of class c:

    L = cross_entropy(s + log prior, y),    prior_c = max(n_c, 1)             absent="as_one"
                                            prior_c = n_c / n + 1e-9          absent="as_none"

A softmax ignores a common factor of the priors, so the two differ in the classes a client does not have: one counts
each as a single example, the other as none, which all but takes it out of the softmax. The first is the loss of FedETF

    Li, Shang, He, Lin, Wu, "No Fear of Classifier Biases: Neural Collapse Inspired Federated Learning with Synthetic
    and Fixed Classifier", ICCV 2023, https://arxiv.org/abs/2303.10058 (ZexiLee/ICCV-2023-FedETF),

the second that of FedVLS, see `terms/vacant_classes.py`. The prior is for training; evaluate with s.

Departure. `strength`, a factor of log prior, is ours; 1 is the papers' loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from torch.nn import functional as F

from decollapse.terms.ranges import check_choice, check_strength

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from decollapse.objective import Step

Absent = Literal["as_one", "as_none"]


def log_prior(class_counts: Float[Tensor, "classes"], *, absent: Absent) -> Float[Tensor, "classes"]:
    """Logarithm of the number ("as_one") or share ("as_none") of the examples of each class; finite.

    Args:
        class_counts: how many examples of each class, as floating-point numbers; at least one of them.
        absent: a class without examples counts as 1 example, or as 1e-9 of them.

    Raises:
        ValueError: an unknown `absent`.

    >>> import torch
    >>> log_prior(torch.tensor([3.0, 1.0, 0.0]), absent="as_none").exp()
    tensor([7.5000e-01, 2.5000e-01, 1.0000e-09])
    """
    check_choice("absent", absent, get_args(Absent))
    if absent == "as_one":
        return class_counts.clamp(min=1).log()
    return (class_counts / class_counts.sum() + 1e-9).log()


def balanced_softmax_loss(
    logits: Float[Tensor, "n classes"],
    y: Int[Tensor, "n"],
    class_counts: Int[Tensor, "classes"],
    *,
    strength: float = 1.0,
    absent: Absent = "as_one",
) -> Float[Tensor, ""]:
    """Mean cross-entropy of logits to which the logarithm of the client's class frequencies was added.

    Args:
        logits: of the local model.
        y: the labels.
        class_counts: how many training examples of each class the client holds.
        strength: factor of the logarithm; 0 is the plain loss.
        absent: what a class without examples counts as; see `log_prior`.

    >>> import torch
    >>> balanced_softmax_loss(torch.zeros(1, 2), torch.tensor([1]), torch.tensor([3, 1]))  # log 4
    tensor(1.3863)
    """
    return F.cross_entropy(logits + strength * log_prior(class_counts.to(logits), absent=absent), y)


@dataclass(frozen=True)
class BalancedSoftmax:
    """Takes the frequency of the classes out of what is learned: `cross_entropy(logits + strength * log prior, y)`.

    It takes the place of cross-entropy in an objective.

    Attributes:
        strength: factor of the log prior, >= 0 and finite; 0 is cross-entropy.
        absent: a class the client does not have counts "as_one" example (FedETF) or "as_none" (FedVLS).
    """

    name: ClassVar[str] = "balanced_softmax"
    strength: float = 1.0
    absent: Absent = "as_one"

    def __post_init__(self) -> None:
        check_strength(strength=self.strength)
        check_choice("absent", self.absent, get_args(Absent))

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The loss of this batch."""
        return balanced_softmax_loss(
            step.output.logits, step.y, step.data.class_counts, strength=self.strength, absent=self.absent
        )
