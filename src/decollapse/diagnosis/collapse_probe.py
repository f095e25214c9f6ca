"""A probe for anyone's loop: the spectrum of a layer's features, measured while the model is used.

    with CollapseProbe(model) as probe:
        trainer.fit(model)              any code that calls the model: PyTorch, Lightning, a Hugging Face Trainer
    print(probe)

A forward hook sees the features, adds them to `FeatureStatistics` on the CPU in float64, and lets them go. It returns
nothing, draws no random number and keeps no graph, so the loop computes what it computes without the probe.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from decollapse.diagnosis.classifier_layer import classifier_layer as classifier_layer
from decollapse.diagnosis.sparkline import spectrum_table
from decollapse.feature_statistics import FeatureStatistics
from decollapse.models.names import nearest_names
from decollapse.spectrum import Spectrum

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class CollapseProbe:
    """Measure the features of one layer inside a `with` block, and leave the model as it was after it.

    Every call of the layer counts, whoever makes it: a model called twice in a step, or a layer that a forward uses
    twice, counts twice, and so does an example seen in two epochs. Maps (n, d, h, w) are averaged over pixels and
    sequences (n, tokens, d) over tokens, padding included; half precision is widened first. An example with a feature
    that is NaN or infinite is left out and counted in `num_nonfinite`. Blocks add up until `reset`; a block round
    training mixes the features of changing weights, one round an evaluation is the spectrum of one model.

    Not seen: replicas of `nn.DataParallel`, copies of the model, and a model that `torch.compile` has traced before the
    block (call `torch.compiler.reset()` first; `fullgraph=True` cannot be probed). With one process a device, each has
    its own probe, and their `statistics` merge.

    Args:
        model: holds the layer; no class in particular.
        layer: its name in `model.named_modules()`, "" for the model itself. None: see `classifier_layer`.
        take: the layer's "input" (the first argument it is called with) or its "output".
        when: count calls while the layer is in "train" mode, in "eval" mode, or "always".
        max_examples: the probe stops at this number and then costs nothing; None for no end.
        num_classes: keep each class apart, for within- and between-class measures; features then need `labels`.

    Attributes:
        layer: the layer's name.
        num_nonfinite: examples left out because of NaN or infinity.
        num_unlabelled: examples left out because `num_classes` was given and `labels` was not.

    Raises:
        ValueError: no layer has this name, or a setting is out of range; in a forward inside the block, what was taken
            is not a floating-point tensor of one of the three shapes, or does not fit the labels.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> with CollapseProbe(model) as probe:
    ...     logits = model(torch.randn(20, 4))
    >>> probe.layer, probe.spectrum.num_examples, len(probe.spectrum.covariance)
    ('2', 20, 3)
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        *,
        take: Literal["input", "output"] = "input",
        when: Literal["always", "train", "eval"] = "always",
        max_examples: int | None = None,
        num_classes: int | None = None,
    ) -> None:
        if take not in ("input", "output") or when not in ("always", "train", "eval"):
            raise ValueError(
                'take must be "input" or "output" and when "always", "train" or "eval", '
                f"got take = {take!r} and when = {when!r}."
            )
        if (max_examples is not None and max_examples < 1) or (num_classes is not None and num_classes < 2):
            raise ValueError(
                "max_examples must be None or at least 1 and num_classes None or at least 2, "
                f"got {max_examples} and {num_classes}."
            )
        self.layer = classifier_layer(model) if layer is None else layer
        self._module = _find(model, self.layer)
        self._take, self._when, self._max_examples, self._num_classes = take, when, max_examples, num_classes
        self._place = f"the {take} of " + (f"layer {self.layer!r}" if self.layer else "the model")
        self._handle: RemovableHandle | None = None
        self._labels: Tensor | None = None
        self.reset()

    def reset(self) -> None:
        """Forget all examples; allowed inside the block."""
        self._statistics: FeatureStatistics | None = None
        self._spectrum: Spectrum | None = None
        self.num_nonfinite = 0
        self.num_unlabelled = 0

    def __enter__(self) -> CollapseProbe:
        if self._handle is not None:
            raise ValueError("this probe is inside its `with` block already; make a second one for a block in a block.")
        # Whoever compiles has loaded Dynamo, as has every optimiser; loading it for the others would take seconds.
        hook = (_untraced_hook() if "torch._dynamo" in sys.modules else _Hook)(self._see)
        if self._take == "input":
            self._handle = self._module.register_forward_pre_hook(hook, with_kwargs=True)
        else:
            self._handle = self._module.register_forward_hook(hook)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.remove()
        self._handle = None

    @contextmanager
    def labels(self, y: Int[Tensor, "n"]) -> Iterator[None]:
        """Tell the classes of the examples in the calls inside this block, for a probe with `num_classes`.

        Calls outside of such a block are left out and counted in `num_unlabelled`, so that no batch is taken for
        another.

        Raises:
            ValueError: the probe has no `num_classes`, or labels are not whole numbers from 0 to num_classes - 1.

        >>> head = nn.Linear(3, 2)
        >>> with CollapseProbe(head, "", num_classes=2) as probe, probe.labels(torch.tensor([0, 1, 1])):
        ...     logits = head(torch.randn(3, 3))
        >>> probe.statistics.counts.tolist()
        [1, 2]
        """
        if self._num_classes is None:
            raise ValueError("labels are for a probe of each class: make it with CollapseProbe(..., num_classes=C).")
        y = y.detach().cpu()
        if y.ndim != 1 or y.is_floating_point() or not ((y >= 0) & (y < self._num_classes)).all():
            raise ValueError(f"labels must be a vector of whole numbers from 0 to {self._num_classes - 1}, got {y}.")
        before, self._labels = self._labels, y
        try:
            yield
        finally:
            self._labels = before

    @property
    def statistics(self) -> FeatureStatistics:
        """The sums themselves, not a copy: to merge with those of other processes, or for other measures.

        Raises:
            ValueError: nothing has been seen yet.
        """
        if self._statistics is None:
            raise ValueError(
                f"the probe has not seen {self._place} yet: call the model inside `with probe:`"
                + (", " if self._when == "always" else f' with the layer in "{self._when}" mode, ')
                + "and after torch.compiler.reset() if torch.compile has traced it before."
            )
        return self._statistics

    @property
    def spectrum(self) -> Spectrum:
        """The eigenvalues; two eigenvalue problems of size d, solved again only if examples have come since."""
        statistics = self.statistics
        if self._spectrum is None or self._spectrum.num_examples != statistics.num_examples:
            self._spectrum = Spectrum.of(statistics)
        return self._spectrum

    def summary(self) -> dict[str, float]:
        """Every scalar measure, for a logger: `Spectrum.summary` with `num_nonfinite` and `num_unlabelled`."""
        left_out = {"num_nonfinite": self.num_nonfinite, "num_unlabelled": self.num_unlabelled}
        return self.spectrum.summary() | left_out

    def report(self, *, ascii_only: bool = False) -> str:
        """The table of `spectrum_table`, and what was left out."""
        title = f"{self._place[0].upper()}{self._place[1:]}"
        seen = [f"{title}: nothing seen yet"]
        if self._statistics is not None:
            seen = [title, spectrum_table(self.spectrum, ascii_only=ascii_only)]
        reasons = {"NaN or infinite features": self.num_nonfinite, "no labels": self.num_unlabelled}
        return "\n".join([*seen, *(f"left out: {n:,} examples with {why}" for why, n in reasons.items() if n)])

    __str__ = report

    def _see(self, module: nn.Module, args: tuple[Any, ...], other: Any) -> None:
        """Add what one call of the layer takes or gives; `other` is its keyword arguments or its output."""
        mode = "train" if module.training else "eval"
        if self._handle is None or module is not self._module or self._when not in ("always", mode):
            return
        seen = 0 if self._statistics is None else self._statistics.num_examples
        if self._max_examples is not None and seen >= self._max_examples:
            return
        taken = other if self._take == "output" else next(iter((*args, *other.values())), None)
        self._add(_rows(taken, self._place).cpu(), None if self._max_examples is None else self._max_examples - seen)

    def _add(self, rows: Float[Tensor, "n d"], room: int | None) -> None:
        labels = self._labels
        if self._num_classes is not None and labels is None:
            self.num_unlabelled += len(rows)
            return
        if labels is not None and len(labels) != len(rows):
            raise ValueError(f"expected a label for each of {len(rows)} examples in {self._place}, got {len(labels)}.")
        finite = rows.isfinite().all(dim=1)
        self.num_nonfinite += len(rows) - int(finite.sum())
        if self._statistics is None:
            self._statistics = FeatureStatistics.empty(rows.shape[1], num_classes=self._num_classes or 1)
        self._statistics.update(rows[finite][:room], None if labels is None else labels[finite][:room])


class _Hook:
    """What the layer calls. In a copy or a pickle of the layer, which is another model, it does nothing."""

    def __init__(self, see: Callable[[nn.Module, Any, Any], None] | None = None) -> None:
        self.see = see

    def __call__(self, module: nn.Module, args: Any, other: Any) -> None:
        if self.see is not None:
            self.see(module, args, other)

    def __reduce__(self) -> tuple[type[_Hook], tuple[()]]:
        return _Hook, ()


@cache
def _untraced_hook() -> type[_Hook]:
    """A `_Hook` that `torch.compile` calls between two graphs, in place of compiling it into one."""

    class Untraced(_Hook):
        __call__ = torch.compiler.disable(_Hook.__call__)

    return Untraced


def _find(model: nn.Module, layer: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    if layer not in modules:
        del modules[""]
        raise ValueError(f"the model has no layer {layer!r}; the nearest names are {nearest_names(layer, modules)}.")
    return modules[layer]


def _rows(taken: Any, place: str) -> Float[Tensor, "n d"]:
    """One vector an example, without a graph."""
    pooled = {2: (), 3: (1,), 4: (2, 3)}
    if not isinstance(taken, Tensor) or not taken.is_floating_point() or taken.ndim not in pooled:
        what = f"{taken.dtype} of shape {tuple(taken.shape)}" if isinstance(taken, Tensor) else type(taken).__name__
        raise ValueError(
            f"{place} must be a floating-point tensor of shape (n, d), (n, tokens, d) or (n, d, height, width), "
            f"got {what}; choose another layer."
        )
    rows, dims = taken.detach(), pooled[taken.ndim]
    return rows.mean(dims, dtype=torch.promote_types(rows.dtype, torch.float32)) if dims else rows
