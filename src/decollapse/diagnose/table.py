"""What `decollapse diagnose` prints: the verdict first, then the numbers."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from decollapse.diagnose.finding import Finding
from decollapse.diagnosis.sparkline import sparkline

WIDTH_OF_FILES = 120
WIDTH_OF_SPECTRUM = 40
FURTHER = (
    ("nc1", "NC1", ".2f", "variation within classes over between them; 0 is neural collapse, which is no fault"),
    ("nc2_norms", "NC2, lengths", ".2f", "how unequal the lengths of class means are; 0 for equal ones"),
    ("nc2_angles", "NC2, angles", ".2f", "how far class means are from a simplex; 0 for one"),
    ("nc3", "NC3", ".2f", "how far the classifier's weights are from the class means; 0 for the same"),
    ("nc4", "NC4", ".2f", "share of examples that the nearest class mean classifies otherwise"),
    ("between_rank", "rank between classes", ".1f", "effective rank of the class means"),
    ("within_rank", "rank within classes", ".1f", "effective rank of what varies within classes"),
    ("cka_between", "CKA between clients", ".2f", "how alike local features are; 1 for the same"),
    ("agreement", "agreement of updates", ".2f", "1 for equal updates, 1 / K for unrelated ones of K clients"),
    ("lost_variance", "BatchNorm variance lost", ".2f", "share between clients, which averaging leaves out"),
    ("accuracy", "accuracy", ".3f", "of the averaged model on the test set"),
)
"""Key, name, format and meaning of what else is known of a finding."""


def print_findings(findings: Sequence[Finding], *, as_json: bool) -> None:
    """Print on stdout, one finding after the other."""
    if as_json:
        sys.stdout.write(json.dumps([finding.as_json() for finding in findings], indent=1, allow_nan=False) + "\n")
        return
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=WIDTH_OF_FILES)
    for number, finding in enumerate(findings):
        console.print(*([""] if number else []), _rendered(finding), sep="\n")


def _rendered(finding: Finding) -> RenderableType:
    warnings = [Text(f"Note: {sentence}", style="yellow") for sentence in finding.caveats]
    return Group(
        Text(f"{finding.subject}, {finding.source}", style="bold"),
        Text(finding.verdict.sentence),
        Text(finding.verdict.remedy),
        *warnings,
        _ranks(finding),
        *_spectrum(finding),
        _further(finding),
    )


def _ranks(finding: Finding) -> Table:
    evidence = finding.evidence
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"effective rank, of d = {evidence.num_features}")
    table.add_column("covariance", justify="right")
    table.add_column("correlation", justify="right")
    for row in finding.ranks:
        table.add_row(row.features, _number(row.covariance, ".1f"), _number(row.correlation, ".1f"))
    return table


def _spectrum(finding: Finding) -> list[Text]:
    if not any(finding.spectrum):
        return []
    drawn = sparkline(finding.spectrum, width=WIDTH_OF_SPECTRUM)
    return [Text(f"spectrum |{drawn}|"), Text("largest to smallest; a step of height is half a decade, a blank is 0")]


def _further(finding: Finding) -> Table:
    evidence = finding.evidence
    known = {**finding.neural_collapse, **finding.alignment, "accuracy": finding.accuracy}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    table.add_row("dead dimensions", str(evidence.num_dead), f"of {evidence.num_features}: the same for every example")
    table.add_row("probe", f"{evidence.num_examples:,}", f"examples of {evidence.num_classes} classes")
    for key, name, form, meaning in FURTHER:
        if known.get(key) is not None:
            table.add_row(name, _number(known[key], form), meaning)
    return table


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
