"""Draw the picture of the README: a collapsed and a repaired spectrum, from run folders, as one SVG file.

    python scripts/readme_picture.py runs/demo --out docs/img/spectrum.svg

One curve a setting (geometric mean over seeds), eigenvalues relative to the largest. Written by hand, so that it needs
no browser, stays a few kilobytes, and gives the same bytes for the same runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from decollapse.report import Group, SummaryRow, group_runs, read_run, summary_rows
from decollapse.report.charts import stroke
from decollapse.report.charts.frame import FONT, GRID, INK, SOFT
from decollapse.report.charts.spectra import geometric_mean
from decollapse.report.summary import COLUMNS
from decollapse.runs import find_runs

WIDTH, HEIGHT = 860, 430
LEFT, RIGHT, TOP, BOTTOM = 76, 836, 78, 372
KEY_HEIGHT = 22
MAX_DECADES = 8
"""Of eigenvalues; below are rounding errors of float32 features."""


def picture(groups: Sequence[Group], *, of: str = "covariance") -> str:
    """The spectra of some settings in one SVG drawing; `of` is "covariance" or "correlation".

    Raises:
        ValueError: no run has recorded a spectrum.
    """
    curves = {group.label: curve for group in groups if (curve := _curve(group, of)) is not None}
    if not curves:
        raise ValueError("none of these runs has recorded a spectrum; let them finish a round first.")
    num_ranks = max(map(len, curves.values()))
    lowest = min(float(np.log10(curve[curve > 10.0**-MAX_DECADES].min())) for curve in curves.values())
    decades = max(1, int(np.ceil(-lowest)))
    rows = {row.label: row for row in summary_rows(groups)}
    looks = {group.label: stroke(index) for index, group in enumerate(groups)}
    lines = [_line(curve, looks[label].color, num_ranks, decades) for label, curve in curves.items()]
    rank = {"covariance": "effective_rank", "correlation": "effective_rank_correlation"}[of]
    keys = [_key(index, rows[label], looks[label].color, rank) for index, label in enumerate(curves)]
    # The drawing leaves room for two lines of legend; each further one moves it down.
    shift = KEY_HEIGHT * (len(keys) - 2)
    body = [f'<g transform="translate(0 {shift})">', *_axes(num_ranks, decades, of), *lines, "</g>"]
    return "\n".join([_head(HEIGHT + shift), *body, *keys, "</svg>\n"])


def _curve(group: Group, of: str) -> np.ndarray | None:
    """Eigenvalues relative to the largest, rank 1 first."""
    found = [run.spectra for run in group.compared if run.spectra is not None]
    if not found:
        return None
    mean = geometric_mean([spectra.covariance if of == "covariance" else spectra.correlation for spectra in found])
    relative: np.ndarray = mean / max(float(mean[0]), float(np.finfo(np.float32).tiny))
    return relative


def _head(height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" font-family="{escape(FONT)}" font-size="13">\n'
        "<title>Eigenvalues of the features by rank</title>\n"
        f'<rect width="{WIDTH}" height="{height}" rx="12" fill="#ffffff"/>'
    )


def _axes(num_ranks: int, decades: int, of: str) -> list[str]:
    parts = []
    for decade in range(0, decades + 1, 1 if decades <= 6 else 2):
        y = _y(-decade, decades)
        parts.append(f'<line x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GRID}"/>')
        power = f'10<tspan dy="-5" font-size="10">\N{MINUS SIGN}{decade}</tspan>' if decade else "1"
        parts.append(f'<text x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end" fill="{SOFT}">{power}</text>')
    for rank in _ticks(num_ranks):
        x = _x(rank, num_ranks)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{BOTTOM}" y2="{BOTTOM + 5}" stroke="{SOFT}"/>')
        parts.append(f'<text x="{x:.1f}" y="{BOTTOM + 20}" text-anchor="middle" fill="{SOFT}">{rank}</text>')
    middle_x, middle_y = (LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2
    parts.append(f'<line x1="{LEFT}" x2="{RIGHT}" y1="{BOTTOM}" y2="{BOTTOM}" stroke="{SOFT}"/>')
    parts.append(f'<text x="{middle_x}" y="{BOTTOM + 44}" text-anchor="middle" fill="{INK}">rank</text>')
    parts.append(
        f'<text transform="translate(22 {middle_y}) rotate(-90)" text-anchor="middle" fill="{INK}">'
        f"eigenvalue of the feature {of} / largest</text>"
    )
    return parts


def _ticks(num_ranks: int) -> list[int]:
    """Rank 1 and about six round numbers.

    >>> _ticks(64), _ticks(1280)
    ([1, 10, 20, 30, 40, 50, 60], [1, 200, 400, 600, 800, 1000, 1200])
    """
    steps = [factor * 10**power for power in range(6) for factor in (1, 2, 5)]
    step = next(step for step in steps if num_ranks / step <= 7)
    return [1, *range(step, num_ranks + 1, step)] if step > 1 else list(range(1, num_ranks + 1))


def _line(curve: np.ndarray, color: str, num_ranks: int, decades: int) -> str:
    """A curve down to the lower edge; where it ends, the rest is too small to be more than rounding."""
    shown = [(rank, value) for rank, value in enumerate(curve, start=1) if value >= 10.0**-decades]
    points = " ".join(f"{_x(rank, num_ranks):.1f},{_y(np.log10(value), decades):.1f}" for rank, value in shown)
    return f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="3" stroke-linejoin="round"/>'


def _key(index: int, row: SummaryRow, color: str, rank: str) -> str:
    """One line of the legend, above the drawing: the setting and its numbers."""
    shown = {column.key: column.show(row.values[column.key]) for column in COLUMNS}
    numbers = f"effective rank {shown[rank]}, test accuracy {shown['accuracy']} %"
    y = 28 + KEY_HEIGHT * index
    return (
        f'<line x1="{LEFT}" x2="{LEFT + 28}" y1="{y}" y2="{y}" stroke="{color}" stroke-width="3"/>'
        f'<text x="{LEFT + 38}" y="{y + 5}" font-size="14" fill="{INK}"><tspan font-weight="600">{escape(row.label)}'
        f'</tspan><tspan dx="10" fill="{SOFT}">{escape(numbers)}</tspan></text>'
    )


def _x(rank: float, num_ranks: int) -> float:
    return LEFT + (RIGHT - LEFT) * (rank - 1) / max(1, num_ranks - 1)


def _y(log: float, decades: int) -> float:
    return TOP + (BOTTOM - TOP) * -log / decades


def main(arguments: Sequence[str]) -> int:
    """Read the folders, write the picture; 2 for a mistake."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("folders", nargs="+", type=Path, help="run folders, or folders of run folders")
    parser.add_argument("--out", type=Path, default=Path("docs/img/spectrum.svg"))
    parser.add_argument("--of", choices=["covariance", "correlation"], default="covariance")
    options = parser.parse_args(arguments)
    try:
        groups = group_runs([read_run(folder.path) for folder in find_runs(options.folders)])
        drawing = picture(groups, of=options.of)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(drawing, encoding="utf-8")
    sys.stdout.write(f"{options.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
