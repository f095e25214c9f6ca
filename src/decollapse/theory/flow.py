"""Gradient flow itself: the weights at given times, to a given accuracy.

Dormand and Prince, "A family of embedded Runge-Kutta formulae", J. Comp. Appl. Math. 1980,
https://doi.org/10.1016/0771-050X(80)90013-3: steps of order 5, whose length follows an error estimate of order 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from decollapse.theory.network import DeepLinear
from decollapse.theory.rates import Examples, velocity

if TYPE_CHECKING:
    from jaxtyping import Float

STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
"""Weights of the slopes known so far in the next point; the last row is the step itself."""
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
"""Order 5 minus order 4."""


def integrate(
    network: DeepLinear, examples: Examples, times: Sequence[float], *, tolerance: float = 1e-6
) -> list[DeepLinear]:
    """The network at each of `times` under `dW_i/dt = - d loss / dW_i`, the loss summed over the examples.

    Time t of the summed loss is what gradient descent on the mean loss reaches in `N t / learning rate` steps.

    Args:
        network: at time 0.
        examples: the client's.
        times: from 0, in ascending order.
        tolerance: of the error of a step, relative to the weights' root mean square.

    Raises:
        ValueError: times that go back, or weights that are not finite.

    >>> from decollapse.theory.network import balanced
    >>> one = Examples(torch.ones(1, 2, dtype=torch.float64), torch.tensor([0]), num_classes=2)
    >>> start = balanced(num_hidden=1, width=1, num_inputs=2, num_classes=2, seed=0)
    >>> [round(float(network.singular_values[0]), 3) for network in integrate(start, one, [0.0, 5.0, 50.0])]
    [0.05, 1.175, 1.868]
    """
    if any(later < earlier for earlier, later in pairwise([0.0, *times])):
        raise ValueError(f"times must ascend from 0, got {list(times)}.")
    flow = _Flow(network, examples)
    point = torch.cat([weight.flatten() for weight in network.weights]).double()
    slope = flow.slope(point)
    now, step, reached = 0.0, 0.0, []
    for time in times:
        while now < time:
            step = step or 1e-3 * float(point.norm() / slope.norm().clamp(min=1e-300))
            taken = min(step, time - now)
            following, slopes = _try(flow, point, slope, taken)
            error = float((taken * _combine(ERROR, slopes)).norm() / (tolerance * following.norm().clamp(min=1e-300)))
            if not error < float("inf"):
                raise ValueError("the flow left the range of numbers; check that inputs and weights are finite.")
            if error <= 1:
                now = time if taken == time - now else now + taken
                point, slope = following, slopes[-1]
            # A step that was cut short at an output time says nothing about how long the next may be, unless it failed.
            proposed = taken * min(5.0, max(0.2, 0.9 * max(error, 1e-10) ** -0.2))
            step = proposed if error > 1 else max(proposed, step if taken < step else 0.0)
        reached.append(flow.network(point))
    return reached


class _Flow:
    """The weights as one vector and back."""

    def __init__(self, network: DeepLinear, examples: Examples) -> None:
        self.shapes = [weight.shape for weight in network.weights]
        self.examples = examples

    def network(self, point: Float[Tensor, "p"]) -> DeepLinear:
        parts = point.split([shape.numel() for shape in self.shapes])
        return DeepLinear(tuple(part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)))

    def slope(self, point: Float[Tensor, "p"]) -> Float[Tensor, "p"]:
        return torch.cat([move.flatten() for move in velocity(self.network(point), self.examples)])


def _try(
    flow: _Flow, point: Float[Tensor, "p"], slope: Float[Tensor, "p"], step: float
) -> tuple[Float[Tensor, "p"], list[Float[Tensor, "p"]]]:
    """One step: the point it leads to, and the slopes on the way, that at the new point last."""
    slopes = [slope]
    following = point
    for weights in STAGES:
        following = point + step * _combine(weights, slopes)
        slopes.append(flow.slope(following))
    return following, slopes


def _combine(weights: Sequence[float], slopes: Sequence[Float[Tensor, "p"]]) -> Float[Tensor, "p"]:
    return torch.stack(list(slopes)).T @ torch.tensor(weights, dtype=torch.float64)
