"""How far clients drift apart in a round: their updates, and the statistics of their BatchNorm layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from decollapse.tree import Tree

MEAN, VARIANCE = "running_mean", "running_var"


@dataclass(frozen=True)
class Drift:
    """How much the updates of a cohort agree.

    Attributes:
        norms: length of each client's update.
        cosines: of each client's update with the mean update.
        agreement: `||mean||^2 / mean ||update||^2`, 1 for equal updates, 1 / K for orthogonal ones of equal
            length, less for updates that oppose each other.
    """

    norms: tuple[float, ...]
    cosines: tuple[float, ...]
    agreement: float


def drift(updates: Sequence[Float[Tensor, "k"]], weights: Sequence[float]) -> Drift:
    """Compare updates, or sketches of them.

    Args:
        updates: one vector a client.
        weights: of the mean; they need not sum to 1.

    >>> found = drift([torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])], [1, 1])
    >>> found.agreement, round(found.cosines[0], 4)
    (0.5, 0.7071)
    """
    rows = torch.stack(list(updates)).double()
    share = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    mean, norms = share @ rows, rows.norm(dim=1)
    lengths = norms * mean.norm()
    cosines = torch.where(lengths > 0, (rows @ mean) / lengths, 0.0)
    spread = float(share @ norms.square())
    agreement = float(mean.square().sum()) / spread if spread > 0 else 1.0
    return Drift(tuple(norms.tolist()), tuple(cosines.tolist()), agreement)


def lost_variance(buffers: Sequence[Tree], weights: Sequence[float]) -> float | None:
    """Share of a BatchNorm channel's variance that is between clients, the mean over channels; None without BatchNorm.

        between = sum_i p_i (mean_i - mean)^2,    within = sum_i p_i variance_i,    between / (between + within)

    The pooled data have the variance between + within; averaging running variances keeps `within` alone. 0 where
    clients have the same means.

    >>> a = {"n.running_mean": torch.tensor([-1.0]), "n.running_var": torch.tensor([1.0])}
    >>> lost_variance([a, a | {"n.running_mean": torch.tensor([1.0])}], [1, 1])
    0.5
    """
    share = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    shares = []
    for name in buffers[0]:
        variance = name.removesuffix(MEAN) + VARIANCE
        if not name.endswith(MEAN) or variance not in buffers[0]:
            continue
        means = torch.stack([client[name] for client in buffers]).double()
        within = share @ torch.stack([client[variance] for client in buffers]).double()
        between = share @ (means - share @ means).square()
        shares.append(between / (between + within).clamp(min=torch.finfo(torch.float64).tiny))
    return float(torch.cat(shares).mean()) if shares else None
