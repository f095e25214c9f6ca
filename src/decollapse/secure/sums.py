"""What a client adds to a sum, and the one result that the server makes of the sum.

    summand_i = w_i, n_i, steps_i; w_i times delta_i, buffers_i, extras_i, metrics_i, ||delta_i||^2; measured sums_i
    result    = sum_i w_i delta_i / sum_i w_i, and so on; measured sums as they are

Weights, and what else is done to an update before it is averaged, are the aggregator's. It makes the same of this one
result as it would have made of the clients' own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from decollapse.aggregate import SummingAggregator, floating, sent_extras
from decollapse.core import MEASURED, Broadcast, ClientResult
from decollapse.secure.encoding import Layout
from decollapse.tree import Tree, prefixed, scale, under

COHORT = -1
"""In the place of a client's number, for the mean of several."""
DELTA, BUFFERS, EXTRAS, METRICS, NUMBERS = "delta/", "buffers/", "extras/", "metrics/", "numbers/"


@dataclass(frozen=True, eq=False)
class SummedResult(ClientResult):
    """The mean of the results of `members`, with `num_examples` and `num_steps` of all of them together.

    Attributes:
        mean_squared_norm: of the clients' own updates, which is more than that of their mean.
    """

    mean_squared_norm: float = 0.0

    @cached_property
    def squared_norm(self) -> float:
        """The mean of the clients' own."""
        return self.mean_squared_norm


def summand(result: ClientResult, aggregate: SummingAggregator) -> tuple[Tree, Layout]:
    """What one client adds, in float64, and the layout that says how many digits of each leaf to send.

    Raises:
        ValueError: the result has measurements of a local model, which are no sums.
    """
    measured = {name: leaf for name, leaf in result.extras.items() if name.startswith(MEASURED)}
    if measured and result.delta:
        raise ValueError(
            f"client {result.client} measured its local model ({min(measured)!r}), which says much of its examples and "
            "does not add up; set evaluation.local_every = 0."
        )
    weight, entering = aggregate.share(result)
    numbers = {"weight": weight, "num_examples": result.num_examples, "num_steps": result.num_steps}
    means = {"squared_norm": result.squared_norm}
    means |= {METRICS + name: value for name, value in result.metrics.items()}
    means |= {} if result.step_size is None else {"step_size": result.step_size}
    averaged = prefixed(_scalars(means), NUMBERS) | prefixed(entering.delta, DELTA)
    averaged |= prefixed(floating(entering.buffers), BUFFERS) | prefixed(sent_extras(entering), EXTRAS)
    as_it_is = prefixed(_scalars(numbers), NUMBERS) | measured
    doubled = {name: leaf.double() for name, leaf in averaged.items()}
    return scale(doubled, weight) | as_it_is, Layout.of(averaged | as_it_is)


def summed(
    sums: Tree, layout: Layout, members: tuple[int, ...], broadcast: Broadcast, aggregate: SummingAggregator
) -> ClientResult:
    """The result that stands for `members`, from the sum of their summands; integer buffers stay as broadcast."""
    numbers = {name: float(leaf) for name, leaf in under(sums, NUMBERS).items()}
    weight = numbers["weight"]

    def mean(prefix: str) -> Tree:
        dtypes = {name: getattr(torch, dtype.removeprefix("torch.")) for name, _, dtype in layout.leaves}
        means = {name: leaf / (weight or 1.0) for name, leaf in sums.items() if name.startswith(prefix)}
        return under({name: leaf.to(dtypes[name]) for name, leaf in means.items()}, prefix)

    def mean_number(name: str) -> float:
        return numbers[name] / (weight or 1.0)

    buffers = mean(BUFFERS)
    kept = {name: leaf for name, leaf in broadcast.model.buffers.items() if not leaf.is_floating_point()}
    result = SummedResult(
        client=COHORT,
        num_examples=round(numbers["num_examples"]),
        num_steps=round(numbers["num_steps"]),
        delta=mean(DELTA),
        buffers=buffers | kept if buffers else {},
        metrics={name.removeprefix(METRICS): mean_number(name) for name in numbers if name.startswith(METRICS)},
        extras=mean(EXTRAS) | {name: leaf for name, leaf in sums.items() if name.startswith(MEASURED)},
        step_size=mean_number("step_size") if "step_size" in numbers else None,
        members=members,
        mean_squared_norm=mean_number("squared_norm"),
    )
    return aggregate.of_mean(result)


def _scalars(numbers: dict[str, float]) -> Tree:
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in numbers.items()}
