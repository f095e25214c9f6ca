"""The diagnosis on the page: verdict first, then what it rests on, round by round and client by client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from decollapse.diagnosis.verdict import ENOUGH, ENOUGH_LOCALLY
from decollapse.report import charts, words
from decollapse.report.charts import Chart
from decollapse.report.details import MAX_CLIENTS, looks, number
from decollapse.report.diagnosed import EVIDENCE, FURTHER, ClientRow, Finding, client_rows, findings, statistic
from decollapse.report.markup import (
    block,
    figure,
    folded,
    grid,
    inline,
    legend,
    paragraphs,
    slider,
    swatch,
    switch,
    table,
)
from decollapse.report.summary import MISSING, Column, Group, Statistic

KINDS = {
    "no_collapse": "good", "few_classes": "good", "local_training": "bad", "averaging": "bad", "collapse": "bad",
    "dead_units": "bad", "too_few_examples": "unsure",
}  # fmt: skip
"""How a verdict is marked; one of another name is unsure."""

SPECTRA = (
    "A line that falls early is a model that uses few dimensions. Where the thin lines fall early, local training "
    "loses them; where the black line falls well before the thin ones, averaging does. Round 0 is the untrained model."
)
RANKS = (
    "How many dimensions are used, before and after averaging. Colour: the local models, median and lowest to highest "
    "client. Dashed: all their features side by side, what they know together. Dotted: the mean of their features. "
    "Black: the averaged model. Colour low: local training loses dimensions. Black far below colour: averaging does. "
    "The correlation sets every dimension's scale aside."
)
EVIDENCE_CAPTION = (
    "What the verdicts rest on: effective ranks of the covariance on one probe, in the round given, mean ± sample "
    "standard deviation over seeds. "
    f"Expected: what a healthy model uses at least; {100 * ENOUGH:.0f} % of it is enough for the averaged model, "
    f"{100 * ENOUGH_LOCALLY:.0f} % for the local ones."
)
FURTHER_CAPTION = (
    "NC1 to NC4: distance from neural collapse, which is no fault; 0 is complete. Agreement: 1 for equal updates, "
    "1 / K for unrelated ones of K clients. BatchNorm variance lost: the share that lies between clients, which "
    "averaging leaves out."
)
CLIENTS_CAPTION = (
    "Sorted by contribution, the client's share of the mean update: shares add up to 100 %, and a negative one pulls "
    "against the others. Classes: effective number. Cosine: of its update with the mean update. Overlap and CKA: how "
    "far its features are those of the averaged model, 1 for the same. A click on a heading sorts."
)


@dataclass(frozen=True)
class DiagnosisCharts:
    """The charts of the diagnosis; any of them may be empty.

    Attributes:
        spectra: one a group, a frame a round.
        ranks: one a group, a frame for the covariance and one for the correlation.
        classes: one for all groups, or none.
    """

    spectra: Sequence[Chart]
    ranks: Sequence[Chart]
    classes: Sequence[Chart]

    @property
    def all(self) -> list[Chart]:
        """In the order of the page."""
        return [*self.spectra, *self.ranks, *self.classes]


def charts_of(groups: Sequence[Group]) -> DiagnosisCharts:
    """Draw what the groups have been diagnosed with."""
    classes = charts.classes_by_rank(groups)
    return DiagnosisCharts(
        spectra=charts.spectra_by_round(groups),
        ranks=charts.attribution(groups),
        classes=[classes] if classes.figure.data else [],
    )


def body(groups: Sequence[Group], drawn: DiagnosisCharts) -> str:
    """The part of the page; a sentence that says how to get it where no run has a diagnosis."""
    found = {group.label: findings(group) for group in groups}
    line = words.undiagnosed([group for group in groups if not found[group.label]], groups)
    missing = paragraphs([line], classes="undiagnosed") if line else ""
    if not any(found.values()):
        return missing
    marks = {label: swatch(look) for label, look in looks(groups)}
    known = {label: diagnosed for label, diagnosed in found.items() if diagnosed}
    verdicts = "".join(_verdict(label, diagnosed, marks[label]) for label, diagnosed in known.items())
    return "".join(
        [
            f'<div class="cards">{verdicts}</div>',
            missing,
            _numbers(known, marks, EVIDENCE, EVIDENCE_CAPTION),
            _charts(groups, drawn) if drawn.all else "",
            _clients(known),
            folded("Neural collapse, alignment and drift", _numbers(known, marks, FURTHER, FURTHER_CAPTION)),
        ]
    )


def _verdict(label: str, found: Sequence[Finding], mark: str) -> str:
    """One sentence for a setting, the one most seeds find; the others' are said after it."""
    counts = Counter(finding.cause for finding in found)
    cause, times = counts.most_common(1)[0]
    lead = next(finding for finding in found if finding.cause == cause)
    lines = [f'<p class="finding">{inline(lead.sentence)}</p>']
    if lead.remedy:
        lines.append(f'<p class="remedy"><strong>Remedy.</strong> {inline(lead.remedy)}</p>')
    at = f"Round {lead.round}, {_seed(lead)}."
    if len(found) > 1:
        at += (
            f" All {times} seeds agree."
            if times == len(found)
            else f" Seeds disagree: {times} of {len(found)} find this."
        )
    others = [finding for finding in found if finding.cause != cause]
    said = [f"{_seed(finding).capitalize()}: {finding.sentence} {finding.remedy}".strip() for finding in others]
    kind, below = KINDS.get(cause, "unsure"), paragraphs([at, *said], classes="caption")
    return f'<article class="card verdict {kind}"><h3>{mark}{inline(label)}</h3>{"".join(lines)}{below}</article>'


def _seed(finding: Finding) -> str:
    return f"run {finding.run.name}" if finding.run.seed is None else f"seed {finding.run.seed}"


def _numbers(found: dict[str, list[Finding]], marks: dict[str, str], columns: Sequence[Column], caption: str) -> str:
    """A row a setting; columns that no run has a number for are left out."""
    known = [column for column in columns if any(statistic(column, diagnosed) for diagnosed in found.values())]
    rows = [
        [label, _rounds(diagnosed), *(column.show(_settled(statistic(column, diagnosed))) for column in known)]
        for label, diagnosed in found.items()
    ]
    headings = ["setting", "round", *(column.title for column in known)]
    return table(headings, rows, caption=caption, marks=[marks[label] for label in found])


def _settled(known: Statistic | None) -> Statistic | None:
    """Without a standard deviation of 0: most of these numbers are sizes, the same for every seed."""
    return known if known is None or known.std else replace(known, std=None)


def _rounds(found: Sequence[Finding]) -> str:
    return ", ".join(map(str, sorted({finding.round for finding in found})))


def _charts(groups: Sequence[Group], drawn: DiagnosisCharts) -> str:
    """A part of their own, which the legend does not leave."""
    classes = [figure(chart, classes="wide") for chart in drawn.classes]
    parts = [legend(looks(groups)), _spectra(drawn.spectra), _ranks(drawn.ranks), *classes]
    return f'<div class="drawn">{"".join(parts)}</div>'


def _spectra(drawn: Sequence[Chart]) -> str:
    names = {frame.name for chart in drawn for frame in chart.figure.frames}
    control = slider("Round", sorted(names, key=int))
    return block("Spectra, round by round", SPECTRA, control, grid(drawn, owned=True)) if drawn else ""


def _ranks(drawn: Sequence[Chart]) -> str:
    names = dict.fromkeys(frame.name for chart in drawn for frame in chart.figure.frames)
    control = switch("Kind of spectrum", list(names))
    return block("Where dimensions are lost", RANKS, control, grid(drawn, owned=True)) if drawn else ""


def _clients(found: dict[str, list[Finding]]) -> str:
    tables = {label: "".join(map(_client_table, diagnosed)) for label, diagnosed in found.items()}
    parts = [folded(label, text) for label, text in tables.items() if text]
    return block("Clients by contribution", CLIENTS_CAPTION, *parts) if parts else ""


def _client_table(finding: Finding) -> str:
    rows = client_rows(finding)
    headings = ["client", "contribution (%)", "examples", "classes", "rank of its model", "probe accuracy (%)"]
    headings += ["cosine", "update norm", "overlap", "CKA"]
    left = len(rows) - MAX_CLIENTS
    caption = f"{finding.run.name}, round {finding.round}."
    caption += f" {left} more clients are not listed." if left > 0 else ""
    return table(headings, [_cells(row) for row in rows[:MAX_CLIENTS]], caption=caption, sortable=True) if rows else ""


def _cells(row: ClientRow) -> list[str]:
    counts = [_percent(row.contribution), number(row.num_examples, 0), number(row.num_classes, 1)]
    measured = [number(row.rank, 1), _percent(row.probe_accuracy)]
    return [str(row.client), *counts, *measured, *(number(v, 2) for v in (row.cosine, row.norm, row.overlap, row.cka))]


def _percent(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:.1f}"
