"""The page: charts and tables of a comparison in one HTML file that opens offline."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files
from string import Template

from plotly.offline import get_plotlyjs

from decollapse.report import charts, details, diagnosis, words
from decollapse.report.charts import Chart
from decollapse.report.markup import figure, grid, inline, legend, paragraphs, section
from decollapse.report.reproduce import commands
from decollapse.report.summary import Group, group_runs, summary_rows
from decollapse.report.view import RunView


def page(runs: Sequence[RunView]) -> str:
    """The whole report as HTML: nothing in it is fetched, and its content security policy forbids fetching.

    The same runs give the same text, byte for byte.

    Raises:
        ValueError: there are no runs.
    """
    if not runs:
        raise ValueError("a report needs at least one run folder, got none.")
    groups = group_runs(runs)
    curves, found = _curves(groups), diagnosis.charts_of(groups)
    # The diagnosis shows local spectra too, of every round.
    told = {chart.title for chart in found.spectra}
    local = [chart for chart in charts.local_spectra(groups) if chart.title not in told]
    maps = [*charts.label_maps(groups), *charts.per_class(groups)]
    body = _body(groups, found, curves, local, maps)
    return document(words.title(groups), body, [*found.all, *curves, *local, *maps])


def document(title: str, body: str, found: Sequence[Chart], *, style: str = "") -> str:
    """A page that draws `found` wherever `body` has a place for them: one file that fetches nothing.

    Args:
        title: of the window, as text.
        body: markup.
        found: every chart that `body` names.
        style: CSS beside the report's own.
    """
    assets = files("decollapse.report") / "assets"
    notice, plotly = _plotly()
    return Template((assets / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        style=(assets / "page.css").read_text(encoding="utf-8") + style,
        script=(assets / "page.js").read_text(encoding="utf-8"),
        body=body,
        charts=_as_json(found),
        plotly=plotly,
        notice=escape(notice),
    )


@cache
def _plotly() -> tuple[str, str]:
    """The licence notice of plotly.js and, as gzip in base64, all of it: 2 MB instead of 5."""
    script = get_plotlyjs()
    notice = script[: script.find("*/")].strip("/* \n").replace("* ", "")
    return notice, base64.b64encode(gzip.compress(script.encode(), 9, mtime=0)).decode()


def _curves(groups: Sequence[Group]) -> list[Chart]:
    """The charts that compare all groups, in the order of the page; those without anything to draw are left out."""
    found = [
        charts.accuracy(groups),
        charts.loss(groups),
        charts.effective_rank(groups, of="covariance"),
        charts.effective_rank(groups, of="correlation"),
        charts.global_spectrum(groups, of="covariance"),
        charts.global_spectrum(groups, of="correlation"),
        charts.dead_dimensions(groups),
        charts.local_effective_rank(groups),
    ]
    return [chart for chart in found if chart.figure.data]


def _body(
    groups: Sequence[Group],
    found: diagnosis.DiagnosisCharts,
    curves: Sequence[Chart],
    local: Sequence[Chart],
    maps: Sequence[Chart],
) -> str:
    rows = summary_rows(groups)
    width = next((run.num_features for group in groups for run in group.runs if run.num_features), None)
    facts = "".join(f"<li>{escape(fact)}</li>" for fact in words.facts(groups))
    warnings, key = words.notes(groups), legend(details.looks(groups))
    return "".join(
        [
            f'<header><p class="kicker">decollapse report</p><h1>{inline(words.title(groups))}</h1>',
            f'<ul class="facts">{facts}</ul></header>',
            f'<main><p class="lead">{inline(words.summary(rows, width))}</p>',
            details.cards(rows),
            f'<aside class="notes">{paragraphs(warnings)}</aside>' if warnings else "",
            section("Comparison", details.comparison(rows), details.paired(groups), identity="comparison"),
            section("Diagnosis", diagnosis.body(groups, found), identity="diagnosis"),
            section("Across the clients' data", details.federated(groups), identity="federated"),
            section("Curves and spectra", key, grid(curves), identity="curves") if curves else "",
            section("Local models", grid(local, owned=True), identity="local") if local else "",
            section("Parts of the test set", details.by_column(groups), identity="parts"),
            section("Labels and classes", *(figure(chart, classes="wide") for chart in maps), identity="labels"),
            section("Rejected updates", details.rejected(groups), identity="rejected"),
            section("Clients", details.clients(groups), identity="clients"),
            section("Settings", details.settings(groups), identity="settings"),
            section("Time", details.times(groups), identity="time"),
            section("Reproduce", commands(groups), identity="reproduce"),
            "</main>",
        ]
    )


def _as_json(found: Sequence[Chart]) -> str:
    """Figures by key; `<` is spelled out, so that no text can end the script element that holds them."""
    figures = {chart.key: json.loads(chart.figure.to_json()) for chart in found}
    return json.dumps(figures, separators=(",", ":")).replace("<", "\\u003c")
