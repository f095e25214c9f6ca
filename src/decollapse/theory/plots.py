"""The pictures of the theory page: results of `study` in, matplotlib figures out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

import torch

from decollapse.pictures import SOFT, Look, axes_in_rows, colors, legend
from decollapse.theory.study import GROWN, Averaging, Growth

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FLOOR = 1e-2
"""Singular values below are not drawn: those that never grow stay a little above it."""
LEAST = 1e-3
"""The same of singular values relative to the largest: most of G's are zero up to rounding."""
CLIENT, MEAN, AVERAGED, POOLED = (
    Look("#b9bfcc", 0.8),
    Look("#d55e00", 1.6, ":"),
    Look("#d55e00", 2.0),
    Look("#0072b2", 2.0),
)
GREW, STAYED, THRESHOLD = Look("#d55e00"), Look("#b9bfcc", 1.0), Look(SOFT, 0.9, "--")

Result = TypeVar("Result", Growth, Averaging)


def label(alpha: float | None) -> str:
    """How a class prior is called.

    >>> label(0.05), label(None)
    ('alpha = 0.05', 'IID')
    """
    return "IID" if alpha is None else f"alpha = {alpha:g}"


def growth_picture(results: Sequence[Growth]) -> Figure:
    """Every singular value of Pi over time, of the first seed: the most unequal client, one between, the last."""
    groups = _by_alpha(results)
    chosen = [groups[index][0] for index in sorted({0, len(groups) // 2, len(groups) - 1})]
    high = 1.3 * max(float(first.spectra.max()) for first in chosen)
    figure, axes = axes_in_rows(len(chosen), columns=3)
    for axis, first in zip(axes, chosen, strict=True):
        threshold = GROWN * float(first.spectra[0, 0])
        axis.axhline(threshold, **THRESHOLD.style)
        for values in reversed(first.spectra.T):
            if values[0] >= FLOOR:
                axis.plot(first.times, values.tolist(), **(GREW if values[-1] > threshold else STAYED).style)
        axis.set(title=f"{label(first.alpha)}: {first.classes} classes,\n{first.grown[-1]} grown")
        axis.set(xlabel="time N t", ylabel="singular values of Π")
        _logarithmic(axis, FLOOR, high)
    legend(figure, [("grown", GREW), ("not grown", STAYED), ("twice the largest at the start", THRESHOLD)])
    return figure


def rank_picture(results: Sequence[Growth]) -> Figure:
    """Left: singular values grown, right: the entropy rank of Pi, over time, each the mean over seeds."""
    sides: list[tuple[str, Callable[[Growth], Sequence[float]]]] = [
        ("singular values grown", lambda growth: growth.grown),
        ("entropy rank of Π", lambda growth: growth.entropy_rank),
    ]
    figure, axes = axes_in_rows(len(sides))
    for axis, (title, measure) in zip(axes, sides, strict=True):
        for group, look in _with_looks(results):
            mean = torch.tensor([list(measure(growth)) for growth in group]).double().mean(dim=0)
            axis.plot(group[0].times, mean.tolist(), **look.style)
        axis.set(title=title, xlabel="time N t")
        axis.set_ylim(bottom=0)
    legend(figure, [(label(group[0].alpha), look) for group, look in _with_looks(results)])
    return figure


def push_picture(results: Sequence[Growth]) -> Figure:
    """Cause and effect: singular values of G at the start, and of Pi at the end, means over seeds."""
    sides: list[tuple[str, Callable[[Growth], torch.Tensor]]] = [
        ("the push: G at the start", lambda growth: growth.push / growth.push[0]),
        ("the result: Π at the end", lambda growth: growth.spectra[-1] / growth.spectra[-1, 0]),
    ]
    num_ranks = min(len(growth.push) for growth in results)
    figure, axes = axes_in_rows(len(sides))
    for axis, (title, spectrum) in zip(axes, sides, strict=True):
        for group, look in _with_looks(results):
            mean = torch.stack([spectrum(growth)[:num_ranks] for growth in group]).mean(dim=0)
            shown = mean.where(mean >= LEAST, torch.nan)
            axis.plot(range(1, num_ranks + 1), shown.tolist(), **look.style)
        axis.set(title=title, xlabel="rank", ylabel="singular value / largest")
        _logarithmic(axis, LEAST, 1.3)
    legend(figure, [(label(group[0].alpha), look) for group, look in _with_looks(results)])
    return figure


def averaging_picture(results: Sequence[Averaging]) -> Figure:
    """Spectra after one round, of the first seed with clients of one size: a panel for each alpha."""
    first = [group[0] for group in _by_alpha([result for result in results if len(set(result.sizes)) == 1])]
    high = 1.5 * max(float(result.clients.max()) for result in first)
    figure, axes = axes_in_rows(len(first), columns=3)
    for axis, result in zip(axes, first, strict=True):
        num_ranks = int((result.pooled > 1e-9).sum())
        axis.axhline(GROWN * float(result.start[0]), **THRESHOLD.style)
        whole = [(result.mean_features, MEAN), (result.pooled, POOLED), (result.averaged, AVERAGED)]
        for spectrum, look in [*((client, CLIENT) for client in result.clients), *whole]:
            axis.plot(range(1, num_ranks + 1), spectrum[:num_ranks].tolist(), **look.style)
        axis.set(title=f"{label(result.alpha)}: {result.grown(result.averaged):g} grown\nafter averaging")
        axis.set(xlabel="rank", ylabel="singular values of Π")
        _logarithmic(axis, FLOOR, high)
    keys = [
        ("averaged weights", AVERAGED),
        ("averaged features", MEAN),
        ("pooled data", POOLED),
        ("each client", CLIENT),
        ("twice the largest at the start", THRESHOLD),
    ]
    legend(figure, keys)
    return figure


def _logarithmic(axis: Axes, low: float, high: float) -> None:
    """A logarithmic y axis whose ticks are read as numbers: 0.01, 0.1, 1."""
    axis.set_yscale("log")
    axis.set_ylim(low, high)
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("")


def _by_alpha(results: Sequence[Result]) -> list[list[Result]]:
    """Results of one alpha together, in the order given."""
    return [list(group) for _, group in groupby(results, key=lambda result: result.alpha)]


def _with_looks(results: Sequence[Result]) -> Iterator[tuple[list[Result], Look]]:
    """Results of one alpha with their colour."""
    groups = _by_alpha(results)
    return zip(groups, map(Look, colors(len(groups))), strict=True)
