"""The theorem against the flow: how far its rates are from finite differences, at the start and later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from decollapse.theory.flow import integrate
from decollapse.theory.network import balance, balanced
from decollapse.theory.rates import class_mean_g, exact_g, measured_rates, predicted_rates
from decollapse.theory.study import Setting

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

SETTING = Setting(width=6, num_inputs=12, num_examples=200, separation=2.0)
"""Small enough that d <= C, so that M can be above 0; class means well apart."""


@dataclass(frozen=True)
class RateErrors:
    """Largest distance of a predicted from the measured rate, over the largest measured rate.

    Attributes:
        num_hidden: L.
        M: of the second assumption.
        time: N t.
        exact: with `exact_g`.
        class_means: with `class_mean_g`.
        squared: with `exact_g`, but sigma^2 where the theorem has sigma^(2/L) under the root; equal for L = 1.
    """

    num_hidden: int
    M: float
    time: float
    exact: float
    class_means: float
    squared: float


def rate_errors(
    *,
    num_hidden: int,
    M: float,
    seed: int = 0,
    scale: float = 0.02,
    times: Sequence[float] = (0.0,),
    setting: Setting = SETTING,
) -> list[RateErrors]:
    """Compare predicted and measured rates of one IID client, at each of the times `N t`.

    >>> (start,) = rate_errors(num_hidden=2, M=0.5)
    >>> start.exact < 1e-8, start.class_means < 0.02, start.squared > 0.01
    (True, True, True)
    """
    start = balanced(
        num_hidden=num_hidden,
        width=setting.width,
        num_inputs=setting.num_inputs,
        num_classes=setting.num_classes,
        scale=scale,
        M=M,
        seed=seed,
    )
    examples = setting.client(None, seed=seed)
    networks = integrate(start, examples, [time / len(examples) for time in times], tolerance=1e-10)
    errors = []
    for time, network in zip(times, networks, strict=True):
        measured = measured_rates(network, examples)
        exact = predicted_rates(network, exact_g(network, examples), num_examples=len(examples))
        means = predicted_rates(network, class_mean_g(network, examples), num_examples=len(examples))
        sigma, found = network.singular_values, balance(network).M
        squared = exact * ((sigma**2 + found) / (sigma ** (2 / num_hidden) + found)).sqrt()
        distances = [_distance(predicted, measured) for predicted in (exact, means, squared)]
        errors.append(RateErrors(num_hidden, M, time, *distances))
    return errors


def _distance(predicted: Float[Tensor, "k"], measured: Float[Tensor, "k"]) -> float:
    return float((predicted - measured).abs().max() / measured.abs().max())
