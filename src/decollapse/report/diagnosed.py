"""What the records say of where dimensions are lost; any of it may be absent or null."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from decollapse.diagnosis.verdict import Evidence
from decollapse.report.summary import Column, Group, Statistic
from decollapse.report.view import Record, RunView, is_diagnosed, is_finite, lookup

EVIDENCE = (
    Column("averaged", "averaged model", ("attribution", "covariance", "averaged")),
    Column("local", "local models (median)", ("attribution", "covariance", "local")),
    Column("side_by_side", "side by side", ("attribution", "covariance", "concatenated")),
    Column("mean", "mean of features", ("attribution", "covariance", "mean")),
    Column("expected", "expected", ("expected_rank",)),
    Column("num_features", "dimensions", ("evidence", "num_features"), decimals=0),
    Column("num_dead", "dead dimensions", ("evidence", "num_dead")),
    Column("num_examples", "probe examples", ("evidence", "num_examples"), decimals=0),
)
"""What a verdict is made from; a list of numbers, one a client, counts by its median."""

FURTHER = (
    Column("nc1", "NC1", ("neural_collapse", "nc1"), decimals=2),
    Column("nc2_norms", "NC2 lengths", ("neural_collapse", "nc2_norms"), decimals=2),
    Column("nc2_angles", "NC2 angles", ("neural_collapse", "nc2_angles"), decimals=2),
    Column("nc3", "NC3", ("neural_collapse", "nc3"), decimals=2),
    Column("nc4", "NC4", ("neural_collapse", "nc4"), decimals=2),
    Column("between", "rank between classes", ("neural_collapse", "between_rank")),
    Column("within", "rank within classes", ("neural_collapse", "within_rank")),
    Column("cka", "CKA between clients", ("attribution", "alignment", "cka_between"), decimals=2),
    Column("agreement", "agreement of updates", ("drift", "agreement"), decimals=2),
    Column("lost_variance", "BatchNorm variance lost (%)", ("lost_variance",), scale=100),
)
"""What else was measured of the averaged model and of the clients together."""


@dataclass(frozen=True)
class Finding:
    """The last diagnosis of a run.

    Attributes:
        run: whose.
        record: of the round.
    """

    run: RunView
    record: Record

    @property
    def round(self) -> int:
        """The round it is of."""
        return int(self.record["round"])

    @property
    def diagnosis(self) -> Record:
        """The diagnosis as recorded, and the rank that is expected."""
        recorded: Record = self.record["diagnosis"]
        return {**recorded, "expected_rank": expected_rank(recorded)}

    @property
    def cause(self) -> str:
        """The cause by its name; empty where the record has none."""
        return str(lookup(self.diagnosis, "verdict", "cause") or "")

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        return str(lookup(self.diagnosis, "verdict", "sentence") or "The record has measurements but no verdict.")

    @property
    def remedy(self) -> str:
        """What to do about it; empty where the record does not say."""
        return str(lookup(self.diagnosis, "verdict", "remedy") or "")


@dataclass(frozen=True)
class ClientRow:
    """What was measured of one client in a round; None where something was not.

    Attributes:
        client: its number.
        num_examples: it trained on.
        num_classes: effective number of classes it holds.
        contribution: its share of the mean update; shares add up to 1, one that pulls against the mean is negative.
        rank: effective rank of the covariance of its model's features.
        probe_accuracy: of its model.
        cosine: of its update with the mean update.
        norm: of its update.
        overlap: share of the averaged model's leading directions that lie in its model's.
        cka: linear CKA of its model's features with the averaged model's.
    """

    client: int
    num_examples: float | None
    num_classes: float | None
    contribution: float | None
    rank: float | None
    probe_accuracy: float | None
    cosine: float | None
    norm: float | None
    overlap: float | None
    cka: float | None


def findings(group: Group) -> list[Finding]:
    """The last diagnosis of each compared run that has one."""
    found = []
    for run in group.compared:
        diagnosed = [record for record in run.records if is_diagnosed(record)]
        found += [Finding(run, diagnosed[-1])] if diagnosed else []
    return found


def statistic(column: Column, found: Sequence[Finding]) -> Statistic | None:
    """One number of a diagnosis over runs; None where no run has it."""
    values = [_number(lookup(finding.diagnosis, *column.path)) for finding in found]
    return Statistic.of([value * column.scale for value in values if value is not None])


def rank_series(run: RunView, *, of: str, part: str) -> list[tuple[int, tuple[float, ...]]]:
    """(round, effective ranks) of the rounds that have a diagnosis.

    Args:
        run: whose.
        of: "covariance" or "correlation".
        part: "local", with a number for each client, or "concatenated", "mean" or "averaged", with one.
    """
    pairs = ((int(record["round"]), lookup(record, "diagnosis", "attribution", of, part)) for record in run.records)
    return [(round_, known) for round_, value in pairs if (known := _numbers(value))]


def client_rows(finding: Finding) -> list[ClientRow]:
    """The measured clients, those that moved the averaged model most first."""
    found, entries = finding.diagnosis, finding.record.get("clients") or ()
    by_client = {entry.get("client"): entry for entry in entries}
    clients = [client for client in found.get("clients") or () if isinstance(client, int)]
    examples = [_number(lookup(by_client.get(client, {}), "num_examples")) for client in clients]
    norms, cosines = (lookup(found, "drift", key) for key in ("norms", "cosines"))
    moved = contributions(
        examples, [_at(norms, at) for at in range(len(clients))], [_at(cosines, at) for at in range(len(clients))]
    )
    rows = [
        ClientRow(
            client=client,
            num_examples=examples[at],
            num_classes=classes_of(finding.run, client),
            contribution=moved[at],
            rank=_at(lookup(found, "attribution", "covariance", "local"), at),
            probe_accuracy=_number(lookup(by_client.get(client, {}), "probe_accuracy")),
            cosine=_at(cosines, at),
            norm=_number(lookup(by_client.get(client, {}), "delta_norm")),
            overlap=_at(lookup(found, "attribution", "alignment", "overlap_with_averaged"), at),
            cka=_at(lookup(found, "attribution", "alignment", "cka_with_averaged"), at),
        )
        for at, client in enumerate(clients)
    ]
    return sorted(rows, key=lambda row: (-_or(row.contribution, -math.inf), -_or(row.num_examples, 0.0), row.client))


def contributions(
    weights: Sequence[float | None], norms: Sequence[float | None], cosines: Sequence[float | None]
) -> list[float | None]:
    """Each client's share of the mean update m: `p_i <u_i, m> / ||m||^2`, which add up to 1.

    With `<u_i, m> = norm_i cosine_i ||m||` and `||m|| = sum_i p_i norm_i cosine_i`. None for all where a number is
    missing, or where there is no mean update.

    >>> contributions([1, 1], [1.0, 3.0], [1.0, 1.0])
    [0.25, 0.75]
    """
    triples = zip(weights, norms, cosines, strict=True)
    parts = [
        weight * norm * cosine
        for weight, norm, cosine in triples
        if weight is not None and norm is not None and cosine is not None
    ]
    whole = sum(parts)
    return [part / whole for part in parts] if len(parts) == len(weights) and whole > 0 else [None] * len(weights)


def classes_of(run: RunView, client: int) -> float | None:
    """Effective number of classes that a client holds, where recorded."""
    return effective_number(run.class_counts[client]) if 0 <= client < len(run.class_counts) else None


def effective_number(counts: Sequence[float]) -> float | None:
    """`exp(-sum p log p)` of the shares p of the classes: C for C equal ones, 1 for a single one, None for none.

    >>> effective_number([50, 50, 0]), effective_number([0, 0])
    (2.0, None)
    """
    whole = sum(counts)
    shares = [count / whole for count in counts if count > 0]
    return math.exp(-sum(share * math.log(share) for share in shares)) if shares else None


def expected_rank(diagnosis: Record) -> float | None:
    """The effective rank of a healthy model, as the verdict has it; None where the evidence is not whole."""
    evidence = lookup(diagnosis, "evidence")
    if not all(is_finite(lookup(evidence, key)) for key in ("num_features", "num_classes")):
        return None
    # The other numbers of the evidence do not enter.
    found = Evidence(
        num_examples=0,
        num_features=evidence["num_features"],
        num_classes=evidence["num_classes"],
        num_dead=0,
        averaged_rank=0.0,
        reference_rank=_number(lookup(evidence, "reference_rank")),
    )
    return found.expected_rank


def _numbers(value: Any) -> tuple[float, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(float(one) for one in values if is_finite(one))


def _number(value: Any) -> float | None:
    """A finite number, the median of several, or None."""
    known = _numbers(value)
    return median(known) if known else None


def _at(values: Any, index: int) -> float | None:
    return _number(values[index]) if isinstance(values, list | tuple) and index < len(values) else None


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
