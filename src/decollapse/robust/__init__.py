"""Robust aggregators: rules that a few arbitrary updates cannot carry away.

They are used in place of `WeightedMean`, on updates that are finite: `decollapse.guard` has to run before them. What
they have in common:

- Every client counts the same unless stated: the number of examples is whatever a client says it is.
- The server has to see single updates (`needs_single_updates`), which secure aggregation hides from it.
- Updates are held in memory in the cohort's order, one row a client, and briefly twice.
- BatchNorm's floating-point buffers go by the same rule, so no rule leaves the range of what clients sent and a
  variance stays a variance. Where results are buffers alone (statistics re-measured after the round), the rule works on
  those.
- Only the update is protected. An algorithm that sends more (SCAFFOLD's control variate) is refused.
"""

from decollapse.robust.coordinates import CoordinateMedian, TrimmedMean, coordinate_median, trimmed_mean
from decollapse.robust.geometric_median import GeometricMedian, weiszfeld
from decollapse.robust.krum import Krum, krum_scores
from decollapse.robust.norm_clipping import NormClipping, clipped

__all__ = [
    "CoordinateMedian",
    "GeometricMedian",
    "Krum",
    "NormClipping",
    "TrimmedMean",
    "clipped",
    "coordinate_median",
    "krum_scores",
    "trimmed_mean",
    "weiszfeld",
]
