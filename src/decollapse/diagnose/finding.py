"""What `decollapse diagnose` says of one run or one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from decollapse.core import Output
from decollapse.diagnosis.caveats import caveats, reference_caveats
from decollapse.diagnosis.local import Probe
from decollapse.diagnosis.neural_collapse import neural_collapse
from decollapse.diagnosis.verdict import Evidence, Verdict, judge
from decollapse.feature_statistics import FeatureStatistics
from decollapse.records import without_nan
from decollapse.spectrum import Spectrum, effective_rank

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class RankRow:
    """Effective ranks of one set of features; None where they were not measured."""

    features: str
    covariance: float | None
    correlation: float | None


@dataclass(frozen=True)
class Finding:
    """What is known of one model, or of one round.

    Attributes:
        subject: the run's folder, or the file of weights.
        source: what was measured, in words.
        verdict: in words.
        evidence: what it was made from.
        ranks: of the averaged model, and of the local ones where they were measured.
        neural_collapse: `NeuralCollapse` by name; empty where it was not measured.
        alignment: `cka_between` clients, `agreement` of their updates, `lost_variance` of BatchNorm; empty likewise.
        accuracy: of the averaged model on the test set, 0 to 1, where it was measured.
        spectrum: eigenvalues of the covariance of the averaged model's features, descending; empty if not kept.
        caveats: how far the numbers can be trusted.
    """

    subject: str
    source: str
    verdict: Verdict
    evidence: Evidence
    ranks: tuple[RankRow, ...]
    neural_collapse: Mapping[str, float | None]
    alignment: Mapping[str, float | None]
    accuracy: float | None
    spectrum: tuple[float, ...]
    caveats: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Nested tables and lists, with None in the place of NaN."""
        table: dict[str, Any] = without_nan(asdict(self))
        return table | {"expected_rank": self.evidence.expected_rank}

    def against(self, reference: Finding) -> Finding:
        """Judged by the rank of a run known to be healthy, instead of by the number of classes.

        Raises:
            ValueError: the two have different numbers of features or classes.
        """
        ours, theirs = ((e.num_features, e.num_classes) for e in (self.evidence, reference.evidence))
        if ours != theirs:
            raise ValueError(
                f"{reference.subject} has {theirs[0]} features and {theirs[1]} classes, {self.subject} has {ours[0]} "
                f"and {ours[1]}; compare runs of one model on the same data."
            )
        evidence = replace(self.evidence, reference_rank=reference.evidence.averaged_rank)
        said = (*self.caveats, *reference_caveats(self.evidence, reference.evidence))
        return replace(self, evidence=evidence, verdict=judge(evidence), caveats=said)


def of_one_model(
    output: Output,
    probe: Probe,
    *,
    subject: str,
    source: str,
    head: Float[Tensor, "classes d"] | None = None,
    untrained: bool = False,
) -> Finding:
    """The finding on a model by itself, from its outputs on a probe.

    Args:
        output: logits and features, finite.
        probe: what they are of.
        subject: what to call the model.
        source: what was measured.
        head: the classifier's weight, for NC3; None, or one that does not fit the features, leaves it out.
        untrained: whether the model is as it was initialised.
    """
    spectrum = Spectrum.of(FeatureStatistics.of(output.features))
    present = probe.y.unique()
    evidence = Evidence(
        num_examples=len(probe.y),
        num_features=output.features.shape[1],
        num_classes=len(present),
        num_dead=spectrum.num_dead,
        averaged_rank=effective_rank(spectrum.covariance),
    )
    fits = head is not None and head.shape == (output.logits.shape[1], output.features.shape[1])
    measures: Mapping[str, float | None] = {}
    if len(present) > 1:
        found = neural_collapse(output.features, probe.y, logits=output.logits, head=head if fits else None)
        measures = asdict(found)
    accuracy = float((output.logits.argmax(dim=1) == probe.y).double().mean())
    return Finding(
        subject=subject,
        source=source,
        verdict=judge(evidence),
        evidence=evidence,
        ranks=(RankRow("the model", evidence.averaged_rank, effective_rank(spectrum.correlation)),),
        neural_collapse=measures,
        alignment={},
        accuracy=accuracy,
        spectrum=tuple(spectrum.covariance.tolist()),
        caveats=caveats(evidence, accuracy=accuracy, num_missing=probe.num_classes - len(present), untrained=untrained),
    )
