"""The proximal term of FedProx.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated Optimization in Heterogeneous Networks", MLSys 2020,
https://arxiv.org/abs/1812.06127, equation 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from decollapse.terms.quadratic import linear_and_quadratic
from decollapse.terms.ranges import check_strength

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
        check_strength(mu=self.mu)

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The penalty at the current local parameters."""
        if self.mu == 0.0:
            return step.output.features.new_zeros(())
        return linear_and_quadratic(step.params, step.anchor.params, strength=self.mu)
