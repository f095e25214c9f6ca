"""The proximal term of FedProx.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated Optimization in Heterogeneous Networks", MLSys 2020,
https://arxiv.org/abs/1812.06127, equation 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from decollapse import tree

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from decollapse.objective import Step


@dataclass(frozen=True)
class Proximal:
    """Keeps the client near the global model: `mu / 2 * ||w - w_global||^2`.

    Over parameters only; BatchNorm's buffers are not optimised and take no part. Its gradient is zero at the first
    local step, where `w` still is `w_global`.

    Attributes:
        mu: strength, >= 0 and finite; 0 is FedAvg. Stable while `lr * mu < 2`.
    """

    name: ClassVar[str] = "proximal"
    mu: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.mu < math.inf:
            raise ValueError(f"mu is a penalty's strength, must be finite and cannot be negative, got {self.mu}.")

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The penalty at the current local parameters."""
        return 0.5 * self.mu * tree.squared_norm(tree.sub(step.params, step.anchor.params))
