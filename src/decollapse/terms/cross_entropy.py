"""Softmax cross-entropy, the task loss of every classification algorithm here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch.nn import functional as F

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from decollapse.objective import Step


@dataclass(frozen=True)
class CrossEntropy:
    """Mean over the batch of `-log softmax(logits)[y]`, in nats.

    Attributes:
        label_smoothing: weight of the uniform distribution in the target, 0 to 1; 0 is the plain loss.
    """

    name: ClassVar[str] = "cross_entropy"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.label_smoothing <= 1.0:
            raise ValueError(f"label_smoothing is a share from 0 to 1, got {self.label_smoothing}.")

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The loss of this batch."""
        return F.cross_entropy(step.output.logits, step.y, label_smoothing=self.label_smoothing)
