"""Why unequal classes collapse features: gradient flow of deep linear networks, exact enough to check a theorem.

    network.py   a deep linear classifier, and starts that satisfy the assumptions
    rates.py     G, and the rate of every singular value of Pi: the theorem's, and finite differences of the flow
    flow.py      the weights over time
    study.py     clients whose class priors differ: what grows in each, and what averaging them keeps
    checks.py    how far the theorem is from the flow

`decollapse theory` runs all of it; docs/theory.md explains it.
"""

from decollapse.theory.checks import RateErrors, rate_errors
from decollapse.theory.flow import integrate
from decollapse.theory.network import Balance, DeepLinear, balance, balanced, gaussian
from decollapse.theory.rates import Examples, class_mean_g, exact_g, measured_rates, predicted_rates, velocity
from decollapse.theory.study import Averaging, Growth, Setting, average, averaging_round, grow

__all__ = [
    "Averaging",
    "Balance",
    "DeepLinear",
    "Examples",
    "Growth",
    "RateErrors",
    "Setting",
    "average",
    "averaging_round",
    "balance",
    "balanced",
    "class_mean_g",
    "exact_g",
    "gaussian",
    "grow",
    "integrate",
    "measured_rates",
    "predicted_rates",
    "rate_errors",
    "velocity",
]
