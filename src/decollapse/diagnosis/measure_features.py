"""The client's half of a federated spectrum: sums of the features of its own examples under the broadcast model.

With z_i the features of example i, counted from an origin that all clients know (zeros if nobody says otherwise),

    count_c = n_c      sum_c = sum_(i in c) z_i      gram = sum_i z_i z_i^T

so the clients' sums add up to those of the pooled examples, in any order, and a secure aggregation can carry them
(Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", ACM CCS 2017).

What leaves a client
--------------------
Float64 numbers: n_c and the sum of features for each class, without `per_class` for one class; and the d (d + 1) / 2
entries on and above the diagonal of `gram`, or, with a sketch of size k, d k products and d sums of squares in their
place. Nothing else: no example, no label, no weight, no time taken.

| C, d | all sums | with a sketch | of size |
|---|---|---|---|
| 1, 128 | 67,080 bytes | 34,824 bytes | k = 32 |
| 10, 128 | 76,368 bytes | 44,112 bytes | k = 32 |
| 1, 1280 | 6,568,968 bytes | 1,331,208 bytes | k = 128 |
| 10, 1280 | 6,661,200 bytes | 1,423,440 bytes | k = 128 |

A first pass for the origin sends C + C d + d numbers more. The size tells nothing about the number of examples.

What can be inferred by whoever reads one client's sums, with or without a sketch:

- how many examples it has; with `per_class`, how many of each class, and the mean features of each class;
- of a client with one example, or with `per_class` of a class with one, the feature vector itself. From a feature
  vector an image can be reconstructed in its colours and rough contours (Dosovitskiy and Brox, "Inverting Visual
  Representations with Convolutional Networks", CVPR 2016, arXiv 1506.02753);
- of a client with n < d examples and no sketch, the space their features span, and the features up to an n x n
  rotation; with what else is known of them (ReLU's are not negative), a few may be reconstructed;
- of few examples, whether one whose features are known can be among them;
- from two totals whose clients differ in one, that one's sums.

`min_examples` keeps small clients out: below it a client sends zeros, as if it had no example, and with `per_class` so
does each small class. Secure aggregation hides a client's sums behind the total, for which the list above still holds;
it computes in fixed point, whose rounding is not counted here. `privacy` adds noise, by which what can be said of any
one example is bounded (`decollapse.privacy.private_statistics`); without it nothing here is differential privacy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from decollapse import tree
from decollapse.core import MEASURED, Broadcast, ClientData, ClientResult, ClientState, derive_seed
from decollapse.diagnosis.sketch import Sketch, sketched_sums
from decollapse.evaluation import outputs
from decollapse.feature_statistics import FeatureStatistics
from decollapse.privacy.private_statistics import PrivateStatistics
from decollapse.tree import Tree

if TYPE_CHECKING:
    from jaxtyping import Float, Int

ORIGIN = "origin"
"""The key, among a broadcast's extras, of the point that features are counted from."""


@dataclass(frozen=True)
class MeasureFeatures:
    """A client call that trains nothing: it sums up the features of the client's own examples.

    Examples are as the data set's `preprocess` makes them, without augmentation, and the model is in eval mode:
    BatchNorm's statistics stay as they were sent.

    Attributes:
        per_class: sums of each class apart, for within- and between-class measures; tells the client's class counts.
        sketch: what to send in place of the d x d sums; None sends these.
        min_examples: a client with fewer sends zeros, and with `per_class` a class with fewer is left out; from 1.
        batch_size: examples a forward pass; memory and speed only.
        privacy: clip features and add noise to the sums, for differential privacy; None sends them as they are.
    """

    per_class: bool = False
    sketch: Sketch | None = None
    min_examples: int = 1
    batch_size: int = 500
    privacy: PrivateStatistics | None = None

    def __post_init__(self) -> None:
        if self.privacy is not None and (self.sketch is not None or self.min_examples > 1):
            raise ValueError(
                "the noise of `privacy` is made for all sums of all examples; leave sketch and min_examples out."
            )
        if self.min_examples < 1 or self.batch_size < 1:
            raise ValueError(
                f"min_examples and batch_size are at least 1, got {self.min_examples} and {self.batch_size}."
            )

    def __call__(
        self, model: nn.Module, data: ClientData, broadcast: Broadcast, state: ClientState
    ) -> tuple[ClientResult, ClientState]:
        """Return a result of no step and no update, with the sums among its extras; the state is as it came.

        Raises:
            ValueError: the client has no example, features are not finite or not (n, d), or the origin or the sketch
                does not fit them.
        """
        if len(data) == 0:
            raise ValueError(f"client {data.client} has no examples; ask clients with at least one.")
        broadcast.model.load_into(model)
        width = _features(model, data, torch.tensor([0])).shape[1]  # needed also where nothing may be counted
        origin = broadcast.extras.get(ORIGIN, torch.zeros(width)).cpu()
        if origin.shape != (width,):
            raise ValueError(f"the origin must have shape ({width},), as the features have, got {tuple(origin.shape)}.")
        num_classes = data.num_classes if self.per_class else 1
        batches = self._batches(model, data, num_classes)
        if self.privacy is not None:
            sums = _private_sums(batches, width, self.privacy, num_classes=num_classes, origin=origin)
            seed = derive_seed("statistics", broadcast.seed, broadcast.round, data.client)
            sums = self.privacy.noisy(sums, seed=seed)
        elif self.sketch is None:
            sums = _all_sums(batches, width, num_classes=num_classes, origin=origin)
        else:
            sums = _sketched(batches, self.sketch.test_matrix(width), num_classes=num_classes, origin=origin)
        extras, counted = tree.prefixed(sums, MEASURED), max(int(sums["count"].sum()), 0)
        return ClientResult(data.client, counted, 0, delta={}, buffers={}, metrics={}, extras=extras), state

    def _batches(self, model: nn.Module, data: ClientData, num_classes: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Features and classes, on the CPU, of the examples that may be counted."""
        classes = data.y.long().cpu() if self.per_class else torch.zeros(len(data), dtype=torch.int64)
        large = torch.bincount(classes, minlength=num_classes) >= self.min_examples
        for rows in large[classes].nonzero().flatten().split(self.batch_size):
            if len(rows):
                yield _features(model, data, rows), classes[rows]


def statistics_of(sums: Tree, *, origin: Float[Tensor, "d"] | None = None, noisy: bool = False) -> FeatureStatistics:
    """The statistics of all examples, from the total of the clients' sums, whoever added them up.

    Of `noisy` sums, negative counts are 0, and the scatter is the nearest one without negative eigenvalues.

    Raises:
        ValueError: the sums are a sketch, or weighted means.
    """
    if "gram" not in sums:
        raise ValueError("a sketch has no d x d statistics; take its spectrum, or measure without a sketch.")
    width = sums["sum"].shape[1]
    row, column = torch.triu_indices(width, width)
    gram = sums["gram"].new_zeros(width, width)
    gram[row, column] = gram[column, row] = sums["gram"]
    if not noisy:
        return FeatureStatistics.from_sums(sums | {"gram": gram}, origin=origin)
    counts = sums["count"].clamp(min=0)
    kept = {"count": counts, "sum": sums["sum"] * (counts > 0)[:, None], "gram": gram}
    found = FeatureStatistics.from_sums(kept, origin=origin)
    values, vectors = torch.linalg.eigh(found.within)
    found.within = (vectors * values.clamp(min=0)) @ vectors.T
    return found


def _all_sums(
    batches: Iterator[tuple[Tensor, Tensor]], width: int, *, num_classes: int, origin: Float[Tensor, "d"]
) -> Tree:
    statistics = FeatureStatistics.empty(width, num_classes=num_classes)
    for features, classes in batches:
        statistics.update(features, classes if num_classes > 1 else None)
    sums = statistics.sums(origin=origin)
    row, column = torch.triu_indices(width, width)
    return sums | {"gram": sums["gram"][row, column]}


def _private_sums(
    batches: Iterator[tuple[Tensor, Tensor]],
    width: int,
    privacy: PrivateStatistics,
    *,
    num_classes: int,
    origin: Float[Tensor, "d"],
) -> Tree:
    clipped = ((privacy.clipped(features.double() - origin), classes) for features, classes in batches)
    return _all_sums(clipped, width, num_classes=num_classes, origin=torch.zeros(width))


def _sketched(
    batches: Iterator[tuple[Tensor, Tensor]],
    test: Float[Tensor, "d k"],
    *,
    num_classes: int,
    origin: Float[Tensor, "d"],
) -> Tree:
    nothing, nobody = torch.zeros(0, len(test)), torch.zeros(0, dtype=torch.int64)
    total = sketched_sums(nothing, nobody, test, num_classes=num_classes, origin=origin)
    for features, classes in batches:
        total = tree.add(total, sketched_sums(features, classes, test, num_classes=num_classes, origin=origin))
    return total


def _features(model: nn.Module, data: ClientData, rows: Int[Tensor, "n"]) -> Float[Tensor, "n d"]:
    """The features of some of a client's examples, on the CPU, all finite."""
    x = data.x[rows.to(data.x.device)]
    features = outputs(model, x, preprocess=data.preprocess, batch_size=len(rows)).features
    if features.ndim != 2 or len(features) != len(rows):
        raise ValueError(
            f"client {data.client}: features must be (n, d), got shape {tuple(features.shape)} for {len(rows)} "
            "examples; pool maps with z.mean((2, 3)), or take another layer."
        )
    if not features.isfinite().all():
        bad = int((~features.isfinite()).any(dim=1).sum())
        raise ValueError(
            f"client {data.client}: features must be finite, got NaN or infinity in {bad} of {len(rows)} examples; "
            "measure the model of an earlier round."
        )
    return features
