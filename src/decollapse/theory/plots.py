"""The pictures of the theory page: results of `study` in, SVG out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TypeVar

import torch

from decollapse.theory.drawing import SOFT, Line, Look, Panel, picture
from decollapse.theory.study import GROWN, Averaging, Growth

PALETTE = ("#e8a100", "#eb7852", "#cb4678", "#9a179b", "#5b02a3", "#0d0887")
"""Plasma, its yellow end darkened: from the most unequal clients to the equal ones; its lightness falls steadily."""
FLOOR = 1e-2
"""Singular values below are not drawn: those that never grow stay a little above it."""
CLIENT, MEAN, AVERAGED, POOLED = (
    Look("#b9bfcc", 1.2),
    Look("#d55e00", 2.5, "2 4"),
    Look("#d55e00", 3),
    Look("#0072b2", 3),
)
GREW, STAYED, THRESHOLD = Look("#d55e00"), Look("#b9bfcc", 1.6), Look(SOFT, 1.2, "5 4")

Result = TypeVar("Result", Growth, Averaging)


def label(alpha: float | None) -> str:
    """How a class prior is called.

    >>> label(0.05), label(None)
    ('alpha = 0.05', 'IID')
    """
    return "IID" if alpha is None else f"alpha = {alpha:g}"


def growth_picture(results: Sequence[Growth]) -> str:
    """Every singular value of Pi over time, of the first seed: the most unequal client, one between, the last."""
    groups = _by_alpha(results)
    chosen = [groups[index] for index in sorted({0, len(groups) // 2, len(groups) - 1})]
    high = 1.3 * max(float(group[0].spectra.max()) for group in chosen)
    panels = []
    for group in chosen:
        first = group[0]
        threshold = GROWN * float(first.spectra[0, 0])
        curves = [
            Line(first.times, values.tolist(), GREW if values[-1] > threshold else STAYED)
            for values in reversed(first.spectra.T)
            if values[0] >= FLOOR
        ]
        dashed = Line([first.times[0], first.times[-1]], [threshold, threshold], THRESHOLD)
        title = f"{label(first.alpha)}: {first.classes} classes, {first.grown[-1]} grown"
        panels.append(Panel(title, "time N t", "singular values of Π", [dashed, *curves], (FLOOR, high), log=True))
    keys = [("grown", GREW), ("not grown", STAYED), ("twice the largest at the start", THRESHOLD)]
    return picture("Singular values of the features' linear map over time", panels, keys)


def rank_picture(results: Sequence[Growth]) -> str:
    """Left: singular values grown, right: the entropy rank of Pi, over time, each the mean over seeds."""
    groups = _by_alpha(results)
    sides: list[tuple[str, Callable[[Growth], Sequence[float]]]] = [
        ("singular values grown", lambda growth: growth.grown),
        ("entropy rank of Π", lambda growth: growth.entropy_rank),
    ]
    panels = []
    for title, measure in sides:
        means = [torch.tensor([list(measure(growth)) for growth in group]).double().mean(dim=0) for group in groups]
        lines = [
            Line(group[0].times, mean.tolist(), look)
            for group, mean, look in zip(groups, means, _looks(groups), strict=True)
        ]
        high = max(1.0, *(float(mean.max()) for mean in means))
        panels.append(Panel(title, "time N t", title, lines, (0.0, 1.05 * high)))
    keys = [(label(group[0].alpha), look) for group, look in zip(groups, _looks(groups), strict=True)]
    return picture("What has grown, and the entropy rank, over time", panels, keys)


def push_picture(results: Sequence[Growth]) -> str:
    """Cause and effect: singular values of G at the start, and of Pi at the end, means over seeds."""
    groups = _by_alpha(results)
    sides = [
        ("the push: G at the start", [[growth.push / growth.push[0] for growth in group] for group in groups]),
        (
            "the result: Π at the end",
            [[growth.spectra[-1] / growth.spectra[-1, 0] for growth in group] for group in groups],
        ),
    ]
    num_ranks = min(len(growth.push) for growth in results)
    panels = []
    for title, spectra in sides:
        means = [torch.stack([spectrum[:num_ranks] for spectrum in group]).mean(dim=0) for group in spectra]
        ranks = list(range(1, num_ranks + 1))
        lines = [Line(ranks, mean.tolist(), look) for mean, look in zip(means, _looks(groups), strict=True)]
        panels.append(Panel(title, "rank", "singular value / largest", lines, (1e-3, 1.3), log=True))
    keys = [(label(group[0].alpha), look) for group, look in zip(groups, _looks(groups), strict=True)]
    return picture("Singular values of G at the start and of the features' linear map at the end", panels, keys)


def averaging_picture(results: Sequence[Averaging]) -> str:
    """Spectra after one round, of the first seed with clients of one size: a panel for each alpha."""
    first = [group[0] for group in _by_alpha([result for result in results if len(set(result.sizes)) == 1])]
    high = 1.5 * max(float(result.clients.max()) for result in first)
    panels = []
    for result in first:
        threshold = GROWN * float(result.start[0])
        num_ranks = int((result.pooled > 1e-9).sum())
        ranks = list(range(1, num_ranks + 1))
        lines = [Line([1, num_ranks], [threshold, threshold], THRESHOLD)]
        lines += [Line(ranks, client[:num_ranks].tolist(), CLIENT) for client in result.clients]
        whole = [(result.mean_features, MEAN), (result.pooled, POOLED), (result.averaged, AVERAGED)]
        lines += [Line(ranks, spectrum[:num_ranks].tolist(), look) for spectrum, look in whole]
        title = f"{label(result.alpha)}: {result.grown(result.averaged):g} grown after averaging"
        panels.append(Panel(title, "rank", "singular values of Π", lines, (FLOOR, high), log=True))
    keys = [
        ("averaged weights", AVERAGED),
        ("averaged features", MEAN),
        ("pooled data", POOLED),
        ("each client", CLIENT),
        ("twice the largest at the start", THRESHOLD),
    ]
    return picture("Singular values of the clients' maps and of their average", panels, keys)


def _by_alpha(results: Sequence[Result]) -> list[list[Result]]:
    """Results of one alpha together, in the order given."""
    return [list(group) for _, group in groupby(results, key=lambda result: result.alpha)]


def _looks(groups: Sequence[object]) -> list[Look]:
    """A colour for each group: the ends of the palette, and evenly between."""
    last = max(1, len(groups) - 1)
    return [Look(PALETTE[round(index * (len(PALETTE) - 1) / last)]) for index in range(len(groups))]
