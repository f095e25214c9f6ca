"""Accuracy, loss and feature statistics of a model on a set of examples, in one forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from decollapse.core import Output
from decollapse.data import Groups
from decollapse.feature_statistics import FeatureStatistics
from decollapse.spectrum import Spectrum

if TYPE_CHECKING:
    from jaxtyping import Bool, Int, Shaped


@dataclass(frozen=True)
class Evaluation:
    """How a model does on a set of examples. Means are over examples, whatever the batches were.

    Attributes:
        num_examples: how many, at least 1.
        accuracy: fraction classified right, 0 to 1. An example with a logit that is NaN or infinite counts as wrong.
        loss: mean cross-entropy in nats; NaN or infinite for a model that has diverged.
        per_class_accuracy: accuracy on the examples of each class; None for a class without examples.
        class_counts: examples of each class.
        statistics: of the features, for `spectrum.summarize`; None if a feature is NaN or infinite.
        correct: of each example in order, whether it is classified right; of several models, the fraction of them.
        by_column: for a column of the data and each of its values, the accuracy there, see `of_groups`.
    """

    num_examples: int
    accuracy: float
    loss: float
    per_class_accuracy: tuple[float | None, ...]
    class_counts: tuple[int, ...]
    statistics: FeatureStatistics | None = field(compare=False, repr=False)
    correct: Shaped[Tensor, "n"] = field(compare=False, repr=False)
    by_column: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)

    @cached_property
    def spectrum(self) -> Spectrum | None:
        """Of the features, computed at the first use; None if a feature is NaN or infinite."""
        return None if self.statistics is None else Spectrum.of(self.statistics)

    @property
    def finite(self) -> bool:
        """Whether the loss and every feature are finite numbers."""
        return math.isfinite(self.loss) and self.statistics is not None

    def of_groups(self, groups: Groups) -> dict[str, float | None]:
        """The accuracy on the examples of each group; None for a group without examples.

        >>> correct = torch.tensor([True, False, True])
        >>> evaluation = Evaluation(3, 2 / 3, 0.0, (2 / 3,), (3,), statistics=None, correct=correct)
        >>> evaluation.of_groups(Groups(("photo", "sketch"), torch.tensor([0, 0, 1])))
        {'photo': 0.5, 'sketch': 1.0}
        """
        right = torch.bincount(groups.codes, self.correct.double(), minlength=len(groups.values)).tolist()
        return {value: r / n if n else None for r, (value, n) in zip(right, groups.counts.items(), strict=True)}


def evaluate(
    model: nn.Module,
    x: Shaped[Tensor, "n ..."],
    y: Int[Tensor, "n"],
    *,
    num_classes: int,
    preprocess: Callable[[Tensor], Tensor],
    batch_size: int = 500,
    per_class: bool = False,
) -> Evaluation:
    """Run `model` on all examples in eval mode, without gradient, and leave every module in the mode it was in.

    A model that has diverged does not raise: see `Evaluation`.

    Args:
        model: returns `Output`; examples go to the device and dtype of its parameters.
        x: uint8 images or floating-point features, as in `ClientData`.
        y: labels, 0 to num_classes - 1.
        num_classes: number of logits.
        preprocess: turns a batch of `x` into floating-point input.
        batch_size: examples a forward pass; memory and speed only, up to rounding.
        per_class: keep the feature statistics of each class apart, for within- and between-class measures.

    Raises:
        ValueError: there are no examples, `x`, `y` and `num_classes` do not fit together, or features are not (n, d).

    >>> from decollapse.core import Output
    >>> class Identity(nn.Module):
    ...     def forward(self, x):
    ...         return Output(logits=x, features=x)
    >>> x, y = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]]), torch.tensor([0, 1, 1])
    >>> result = evaluate(Identity(), x, y, num_classes=2, preprocess=lambda x: x)
    >>> result.num_examples, round(result.accuracy, 4), result.per_class_accuracy
    (3, 0.6667, (1.0, 0.5))
    """
    tally = Tally.of(
        model,
        x,
        y,
        num_classes=num_classes,
        preprocess=preprocess,
        batch_size=batch_size,
        per_class=per_class,
    )
    return tally.evaluation()


@dataclass(frozen=True, eq=False)
class Tally:
    """Sums over examples, from which an evaluation is made; those of parts of a test set add up to the whole's.

    Attributes:
        loss: summed cross-entropy.
        right: examples of each class that are classified right.
        counts: examples of each class.
        statistics: of the features; None if one is NaN or infinite.
        correct: of each example in order, whether it is classified right.
    """

    loss: float
    right: Int[Tensor, "classes"]
    counts: Int[Tensor, "classes"]
    statistics: FeatureStatistics | None
    correct: Bool[Tensor, "n"]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        x: Shaped[Tensor, "n ..."],
        y: Int[Tensor, "n"],
        *,
        num_classes: int,
        preprocess: Callable[[Tensor], Tensor],
        batch_size: int = 500,
        per_class: bool = False,
    ) -> Tally:
        """Arguments and errors are those of `evaluate`."""
        _check_examples(x, y, num_classes)
        y = y.long().cpu()
        loss, correct = 0.0, torch.zeros(len(y), dtype=torch.bool)
        statistics, finite = None, True
        with _evaluating(model):
            for rows, output in _outputs(model, x, preprocess, batch_size):
                labels, logits = y[rows], output.logits.cpu().double()
                if logits.shape != (len(labels), num_classes):
                    raise ValueError(
                        f"expected logits of shape ({len(labels)}, {num_classes}), got {tuple(logits.shape)}."
                    )
                loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
                correct[rows] = (logits.argmax(dim=1) == labels) & logits.isfinite().all(dim=1)
                finite = finite and bool(output.features.isfinite().all())
                if finite:
                    classes = num_classes if per_class else 1
                    statistics = statistics or FeatureStatistics.empty(output.features.shape[1], num_classes=classes)
                    statistics.update(output.features, labels if classes > 1 else None)
        right, counts = (torch.bincount(labels, minlength=num_classes) for labels in (y[correct], y))
        return cls(loss, right, counts, statistics if finite else None, correct)

    def __add__(self, other: Tally) -> Tally:
        statistics = self.statistics + other.statistics if self.statistics and other.statistics else None
        return Tally(
            self.loss + other.loss,
            self.right + other.right,
            self.counts + other.counts,
            statistics,
            torch.cat([self.correct, other.correct]),
        )

    def evaluation(self) -> Evaluation:
        """The means."""
        right, counts, total = self.right.tolist(), self.counts.tolist(), int(self.counts.sum())
        return Evaluation(
            num_examples=total,
            accuracy=sum(right) / total,
            loss=self.loss / total,
            per_class_accuracy=tuple(r / n if n else None for r, n in zip(right, counts, strict=True)),
            class_counts=tuple(counts),
            statistics=self.statistics,
            correct=self.correct,
        )


def mean_evaluation(evaluations: Sequence[Evaluation]) -> Evaluation:
    """What several models do on the same examples, on average; without a spectrum, which is one model's.

    >>> one = Evaluation(2, 1.0, 0.0, per_class_accuracy=(1.0, None), class_counts=(2, 0), statistics=None,
    ...                  correct=torch.tensor([True, True]))
    >>> mean = mean_evaluation([one, replace(one, accuracy=0.5, loss=1.0, correct=torch.tensor([True, False]))])
    >>> mean.accuracy, mean.loss, mean.correct
    (0.75, 0.5, tensor([1.0000, 0.5000], dtype=torch.float64))
    """
    per_class = zip(*(evaluation.per_class_accuracy for evaluation in evaluations), strict=True)
    return replace(
        evaluations[0],
        accuracy=fmean(evaluation.accuracy for evaluation in evaluations),
        loss=fmean(evaluation.loss for evaluation in evaluations),
        per_class_accuracy=tuple(
            None if values[0] is None else fmean(value for value in values if value is not None) for values in per_class
        ),
        statistics=None,
        correct=torch.stack([evaluation.correct.double() for evaluation in evaluations]).mean(dim=0),
    )


def outputs(
    model: nn.Module,
    x: Shaped[Tensor, "n ..."],
    *,
    preprocess: Callable[[Tensor], Tensor],
    batch_size: int = 500,
) -> Output:
    """Logits and features of all examples in eval mode, without gradient, in the order of `x`, on the CPU.

    For small sets and measures that need the vectors themselves; `evaluate` keeps d x d sums only.
    Raises ValueError if there are no examples.
    """
    if len(x) == 0:
        raise ValueError("features need at least one example, got none.")
    with _evaluating(model):
        parts = [output for _, output in _outputs(model, x, preprocess, batch_size)]
    return Output(torch.cat([part.logits.cpu() for part in parts]), torch.cat([part.features.cpu() for part in parts]))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradient; afterwards each module is in its own former mode, so a frozen BatchNorm stays so."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _outputs(
    model: nn.Module, x: Tensor, preprocess: Callable[[Tensor], Tensor], batch_size: int
) -> Iterator[tuple[slice, Output]]:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    for start in range(0, len(x), batch_size):
        rows = slice(start, min(start + batch_size, len(x)))
        output = model(preprocess(x[rows].to(weight.device)).to(weight.dtype))
        if not isinstance(output, Output):
            raise TypeError(
                f"the model must return decollapse.core.Output(logits, features), got {type(output).__name__}."
            )
        yield rows, output


def _check_examples(x: Tensor, y: Tensor, num_classes: int) -> None:
    if len(x) == 0 or y.shape != (len(x),):
        raise ValueError(f"evaluation needs n >= 1 examples and n labels, got {len(x)} and shape {tuple(y.shape)}.")
    if not 0 <= int(y.min()) <= int(y.max()) < num_classes:
        raise ValueError(f"labels must be 0 to {num_classes - 1}, got {int(y.min())} to {int(y.max())}.")
