"""The not-true distillation of FedNTD.

Lee, Jeong, Shin, Bae, Yun, "Preservation of the Global Knowledge by Not-True Distillation in Federated Learning",
NeurIPS 2022, https://arxiv.org/abs/2106.03097; authors' code Lee-Gihun/FedNTD. With the logits s of the local and t of
the global model, and T the temperature:

    q = softmax of t_c / T,   p = softmax of s_c / T          over the classes c other than the true one
    L = T^2 mean of KL(q || p)

Departure. The global model, the teacher, is in eval mode: its BatchNorm uses its own statistics and keeps them. The
authors' is a copy of the local model in the mode that this happens to be in.
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


def not_true_distillation(
    logits: Float[Tensor, "n classes"],
    teacher_logits: Float[Tensor, "n classes"],
    y: Int[Tensor, "n"],
    *,
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """How far the ranking of the wrong classes has moved from the teacher's; 0 if it is the same up to a constant.

    The true class takes no part, and its logit has no gradient: cross-entropy is free to move it. With two classes one
    is left, and the loss is 0.

    Args:
        logits: of the student.
        teacher_logits: of the teacher, on the same examples; gets no gradient.
        y: the labels.
        temperature: > 0; a higher one gives the unlikely classes more weight.

    >>> teacher = torch.tensor([[9.0, 0.0, 1.0986]])  # 1/4 and 3/4 of what is not class 0
    >>> not_true_distillation(torch.zeros(1, 3), teacher, torch.tensor([0]))
    tensor(0.1308)
    """
    wrong = torch.arange(logits.shape[1] - 1, device=logits.device)
    wrong = wrong + (wrong >= y[:, None])  # 0, 1, ... with the true class skipped
    student, teacher = (
        (scores.gather(1, wrong) / temperature).log_softmax(dim=1) for scores in (logits, teacher_logits.detach())
    )
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


@dataclass(frozen=True)
class NotTrueDistillation:
    """Keeps what the global model knows of the wrong classes: `beta * not_true_distillation`, with it as the teacher.

    It is added to cross-entropy. One more forward pass a step. Its gradient is zero at the first local step, unless the
    model differs between training and evaluation.

    Attributes:
        beta: strength, >= 0 and finite; 0 costs nothing and is FedAvg.
        temperature: > 0 and finite; softens both distributions.
    """

    name: ClassVar[str] = "not_true_distillation"
    beta: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_strength(beta=self.beta)
        check_positive(temperature=self.temperature)

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The penalty of this batch."""
        logits = step.output.logits
        if self.beta == 0:
            return logits.new_zeros(())
        teacher = step.frozen(step.anchor).logits
        return self.beta * not_true_distillation(logits, teacher, step.y, temperature=self.temperature)
