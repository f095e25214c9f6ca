"""The two penalties of FedVLS: keep the classes a client lacks, and hold down the logits of wrong classes.

Guo, Ding, Liang, He, Wang, Tan, "Exploring Vacant Classes in Label-Skewed Federated Learning", AAAI 2025,
https://arxiv.org/abs/2401.02329; authors' code krumpguo/FedVLS. With the logits s of the local and t of the global
model, C classes, a share pi_c of the client's examples in class c, and V the vacant classes, pi_c = 0:

    distillation  = mean of KL( softmax of t_c over c in V || softmax of s_c over c in V )
    suppression   = sum_c pi_c log mean_b exp( u_bc )
                    u_bc = 0 where y_b = c,   s_bc - log(pi_c + 1e-9) - log C elsewhere

FedVLS is `BalancedSoftmax(absent="as_none")` in the place of cross-entropy, plus both. The equations are those of the
code; the paper's were not compared.

Departures. The global model, the teacher, is in eval mode: in the code it is in training mode, where BatchNorm uses the
batch and its statistics drift. The code has log(1 / C + 1e-9) for -log C.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn import functional as F

from decollapse.terms.balanced_softmax import log_prior
from decollapse.terms.ranges import check_strength

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from decollapse.objective import Step


def vacant_distillation(
    logits: Float[Tensor, "n classes"],
    teacher_logits: Float[Tensor, "n classes"],
    class_counts: Int[Tensor, "classes"],
) -> Float[Tensor, ""]:
    """How far the ranking of the classes a client lacks has moved from the teacher's; 0 if it lacks fewer than two.

    Args:
        logits: of the student.
        teacher_logits: of the teacher, on the same examples; gets no gradient.
        class_counts: how many training examples of each class the client holds.

    >>> teacher = torch.tensor([[9.0, 0.0, 1.0986]])  # 1/4 and 3/4 of what is not class 0
    >>> vacant_distillation(torch.zeros(1, 3), teacher, torch.tensor([5, 0, 0]))
    tensor(0.1308)
    """
    vacant = class_counts == 0
    student, teacher = (scores[:, vacant].log_softmax(dim=1) for scores in (logits, teacher_logits.detach()))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def logit_suppression(
    logits: Float[Tensor, "n classes"], y: Int[Tensor, "n"], class_counts: Int[Tensor, "classes"]
) -> Float[Tensor, ""]:
    """How large the logits of the wrong classes are, frequent classes first; it can be negative.

    Args:
        logits: of the local model.
        y: the labels.
        class_counts: how many training examples of each class the client holds; at least one of some class.

    >>> logits = torch.tensor([[9.0, 0.6931], [0.0, 9.0]])  # wrong ones: log 2 for class 1, 0 for class 0
    >>> logit_suppression(logits, torch.tensor([0, 1]), torch.tensor([1, 1]))  # log(3 / 2) / 2
    tensor(0.2027)
    """
    counts = class_counts.to(logits)
    excess = logits - log_prior(counts, absent="as_none") - math.log(logits.shape[1])
    true = F.one_hot(y, logits.shape[1]).bool()
    log_mean = torch.where(true, 0, excess).logsumexp(dim=0) - math.log(len(y))
    return (counts / counts.sum() * log_mean).sum()


@dataclass(frozen=True)
class VacantDistillation:
    """Keeps what the global model knows of the classes a client lacks: `strength * vacant_distillation`.

    It is added to the objective. One more forward pass a step, unless the client lacks fewer than two classes.

    Attributes:
        strength: >= 0 and finite; 0 costs nothing. The authors' code has 1, the command in its README 0.1.
    """

    name: ClassVar[str] = "vacant_distillation"
    strength: float = 1.0

    def __post_init__(self) -> None:
        check_strength(strength=self.strength)

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The penalty of this batch."""
        logits, class_counts = step.output.logits, step.data.class_counts
        if self.strength == 0 or (class_counts == 0).sum() < 2:
            return logits.new_zeros(())
        return self.strength * vacant_distillation(logits, step.frozen(step.anchor).logits, class_counts)


@dataclass(frozen=True)
class LogitSuppression:
    """Holds down the logits of the wrong classes, those of a client's frequent classes most.

    It is added to the objective, as `strength * logit_suppression`.

    Attributes:
        strength: >= 0 and finite; 0 costs nothing. The authors' code has 0.005.
    """

    name: ClassVar[str] = "logit_suppression"
    strength: float = 0.005

    def __post_init__(self) -> None:
        check_strength(strength=self.strength)

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The penalty of this batch."""
        if self.strength == 0:
            return step.output.logits.new_zeros(())
        return self.strength * logit_suppression(step.output.logits, step.y, step.data.class_counts)
