"""The page with all figures: one HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from decollapse.figures.charts import significant_charts, spectra_charts, sphere_charts
from decollapse.figures.looks import curve_colors
from decollapse.figures.numbers import MeasuredPanel
from decollapse.figures.sphere import Sphere
from decollapse.figures.words import TITLES, captions
from decollapse.report import words
from decollapse.report.charts import Stroke
from decollapse.report.markup import grid, inline, legend, paragraphs, section
from decollapse.report.page import document
from decollapse.report.summary import group_runs

STYLE = """
@media (min-width: 900px) {
  :is(#significant, #sphere) .grid { grid-template-columns: repeat(3, minmax(0, 1fr)); }
  :is(#significant, #sphere) .grid figure:last-child:nth-child(odd) { grid-column: auto; }
}
"""


def figures_page(panels: Sequence[MeasuredPanel], spheres: Sequence[Sphere], notes: Sequence[str] = ()) -> str:
    """The page as HTML; the same numbers give the same text.

    Args:
        panels: the spectra.
        spheres: the features; none leaves that figure out.
        notes: what a reader has to know, such as runs that were left out.
    """
    charts = {
        "global": spectra_charts(panels, of="global"),
        "local": spectra_charts(panels, of="local"),
        "significant": significant_charts(panels),
        "sphere": sphere_charts(spheres),
    }
    if not any(one.local for panel in panels for one in panel.curves):
        charts["local"] = []
    groups = group_runs([run for panel in panels for one in panel.curves for run in one.curve.runs])
    key = legend([(name, Stroke(color, "solid", "circle")) for name, color in curve_colors(panels).items()])
    facts = "".join(f"<li>{escape(fact)}</li>" for fact in words.facts(groups))
    said = captions(panels, spheres)
    body = "".join(
        [
            f'<header><p class="kicker">decollapse figures</p><h1>{inline(words.title(groups))}</h1>',
            f'<ul class="facts">{facts}</ul></header><main>',
            f'<aside class="notes">{paragraphs(notes)}</aside>' if notes else "",
            *(
                section(
                    TITLES[name],
                    "" if name == "sphere" else key,
                    f'<div class="block">{paragraphs([said[name]], classes="caption")}{grid(found)}</div>',
                    identity=name,
                )
                for name, found in charts.items()
                if found
            ),
            "</main>",
        ]
    )
    return document("Figures", body, [chart for found in charts.values() for chart in found], style=STYLE)
