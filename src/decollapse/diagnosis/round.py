"""The diagnosis of one round: what its local models and their average show on the probe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from decollapse import tree
from decollapse.core import ModelState, Output
from decollapse.diagnosis.attribution import Attribution, attribute
from decollapse.diagnosis.drift import Drift, drift, lost_variance
from decollapse.diagnosis.local import BUFFERS, FEATURES, SKETCH, Probe
from decollapse.diagnosis.neural_collapse import NeuralCollapse, neural_collapse
from decollapse.diagnosis.verdict import Evidence, Verdict, judge
from decollapse.tree import Tree


@dataclass(frozen=True)
class RoundDiagnosis:
    """What one round shows.

    Attributes:
        verdict: in words.
        evidence: what the verdict was made from.
        attribution: ranks of local models, side by side, of their mean, and of the averaged model.
        clients: whose models were measured, in the order of every list here.
        neural_collapse: of the averaged model; None where the probe has fewer than two classes.
        drift: of the updates; cosines are from sketches of them.
        lost_variance: share of BatchNorm's variance that lies between clients; None without BatchNorm.
    """

    verdict: Verdict
    evidence: Evidence
    attribution: Attribution
    clients: tuple[int, ...]
    neural_collapse: NeuralCollapse | None
    drift: Drift
    lost_variance: float | None


def diagnose_round(
    averaged: Output,
    model: ModelState,
    measurements: Mapping[int, Tree],
    num_examples: Mapping[int, int],
    probe: Probe,
    *,
    head: str = "head.weight",
) -> RoundDiagnosis | None:
    """The diagnosis, or None where no local model could be measured.

    Args:
        averaged: outputs of the averaged model on the probe.
        model: its weights, for the head's.
        measurements: what `MeasureLocalModel` measured, by client.
        num_examples: of each client, its weight in means.
        probe: what was measured on.
        head: name of the classifier's weight; without one of that name, NC3 is left out.
    """
    clients = tuple(client for client, measured in measurements.items() if FEATURES in measured)
    if not clients:
        return None
    found = [measurements[client] for client in clients]
    weights = [num_examples[client] for client in clients]
    attribution = attribute(averaged.features, [measured[FEATURES].to(averaged.features) for measured in found])
    evidence = Evidence(
        num_examples=attribution.num_examples,
        num_features=attribution.num_features,
        num_classes=len(probe.y.unique()),
        num_dead=attribution.num_dead,
        averaged_rank=attribution.covariance.averaged,
        local_ranks=attribution.covariance.local,
        concatenated_rank=attribution.covariance.concatenated,
    )
    return RoundDiagnosis(
        verdict=judge(evidence),
        evidence=evidence,
        attribution=attribution,
        clients=clients,
        neural_collapse=_neural_collapse(averaged, probe, model.params.get(head)),
        drift=drift([measured[SKETCH] for measured in found], weights),
        lost_variance=lost_variance([tree.under(measured, BUFFERS) for measured in found], weights),
    )


def _neural_collapse(averaged: Output, probe: Probe, head: Tensor | None) -> NeuralCollapse | None:
    if len(probe.y.unique()) < 2:
        return None
    fits = head is not None and head.shape == (averaged.logits.shape[1], averaged.features.shape[1])
    return neural_collapse(averaged.features, probe.y, logits=averaged.logits, head=head if fits else None)
