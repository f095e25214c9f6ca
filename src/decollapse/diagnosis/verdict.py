"""A verdict in words from the numbers of a diagnosis, and what to do about it.

What is expected of a healthy classifier of C classes is the C - 1 dimensions that its class means span; less is a
collapse, more is not asked for. The rules, in their order:

    too few examples    n < 10 C, or n - 1 < 2 x the rank: ranks saturate at min(d, n - 1)
    dead units          more than a fifth of the dimensions is constant
    no collapse         rank of the averaged model >= 0.7 r, and the median rank of local models >= 0.7 r
    averaging           the local models' median reaches 0.7 r, the averaged model does not
    local training      the local models' median does not reach 0.7 r, whatever averaging makes of them
    few classes         no collapse, and yet fewer than half the dimensions and 2 (C - 1) in use: what C classes need

r is `min(C - 1, d, 9)`, or the rank of a reference run that is given. With many classes a model that has just begun to
learn uses few dimensions wherever its data are, so without a reference nothing above 9 is asked for. The thresholds are
calibrated on constructed cases (tests/diagnosis/test_verdict.py) and on the CIFAR-10 runs of docs/results/cifar10.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Literal

Cause = Literal["no_collapse", "local_training", "averaging", "few_classes", "dead_units", "too_few_examples"]

ENOUGH = 0.7
"""Share of the expected rank that counts as having it."""
DEAD = 0.2
"""Share of constant dimensions from which on they are the finding."""
MOST_EXPECTED = 9


@dataclass(frozen=True)
class Evidence:
    """What a verdict is made from; ranks are effective ranks of the covariance on one probe.

    Attributes:
        num_examples: n, of the probe.
        num_features: d.
        num_classes: C, classes present in the probe.
        num_dead: constant dimensions of the averaged model.
        averaged_rank: of the averaged model.
        local_ranks: of each local model; empty where none was measured.
        concatenated_rank: of all local models' features side by side; None where none was measured.
        reference_rank: of a run known to be healthy on the same data and model; None without one.
    """

    num_examples: int
    num_features: int
    num_classes: int
    num_dead: int
    averaged_rank: float
    local_ranks: tuple[float, ...] = ()
    concatenated_rank: float | None = None
    reference_rank: float | None = None

    @property
    def expected_rank(self) -> float:
        """r: the reference's rank, or `min(C - 1, d, 9)`."""
        if self.reference_rank is not None:
            return self.reference_rank
        return min(self.num_classes - 1, self.num_features, MOST_EXPECTED)


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Attributes:
        cause: one of six.
        sentence: the finding, with its numbers.
        remedy: what to do.
    """

    cause: Cause
    sentence: str
    remedy: str


REMEDIES: dict[Cause, str] = {
    "no_collapse": "Nothing to repair.",
    "few_classes": "Nothing to repair: a classifier needs one dimension less than it has classes.",
    "local_training": (
        "Add FedDecorr to the clients' loss: client.objective.feddecorr.beta=0.1 behind BatchNorm, and "
        'beta=0.03 with matrix="covariance" without it.'
    ),
    "averaging": (
        "Let the local models drift apart less: fewer local epochs, algorithm=fedprox or scaffold, or group "
        "normalisation in place of BatchNorm."
    ),
    "dead_units": (
        'Keep units alive: FedDecorr with matrix="covariance" rather than "correlation", a normalisation '
        "layer before the ReLU, or a smaller learning rate."
    ),
    "too_few_examples": "Measure on more examples: at least 10 a class, and 5 a feature dimension.",
}


def judge(evidence: Evidence) -> Verdict:
    """Apply the rules of this module.

    >>> judge(Evidence(1000, 64, 10, 0, averaged_rank=4.0, local_ranks=(3.1, 3.4, 2.9))).cause
    'local_training'
    """
    cause = _cause(evidence)
    return Verdict(cause, _sentence(cause, evidence), REMEDIES[cause])


def _cause(e: Evidence) -> Cause:
    needed = ENOUGH * e.expected_rank
    largest = max(e.averaged_rank, *e.local_ranks, 0.0)
    local = median(e.local_ranks) if e.local_ranks else e.averaged_rank
    if e.num_examples < 10 * e.num_classes or e.num_examples - 1 < 2 * largest:
        return "too_few_examples"
    if e.num_dead > DEAD * e.num_features:
        return "dead_units"
    if min(e.averaged_rank, local) >= needed:
        return "few_classes" if e.averaged_rank < min(e.num_features / 2, 2 * (e.num_classes - 1)) else "no_collapse"
    return "averaging" if local >= needed else "local_training"


def _sentence(cause: Cause, e: Evidence) -> str:
    uses = f"The averaged model uses {e.averaged_rank:.1f} of {e.num_features} dimensions"
    expected = f"{e.expected_rank:.1f} are expected"
    expected += " from the reference run" if e.reference_rank is not None else f" of {e.num_classes} classes"
    local = f", its local models {median(e.local_ranks):.1f} (median of {len(e.local_ranks)})" if e.local_ranks else ""
    if cause == "too_few_examples":
        return f"{e.num_examples} examples of {e.num_classes} classes are too few to tell."
    if cause == "dead_units":
        return f"{e.num_dead} of {e.num_features} dimensions are dead: the same for every example."
    if cause == "no_collapse":
        return f"No collapse. {uses}{local}; {expected}."
    if cause == "few_classes":
        return f"No collapse. {uses}{local}; {expected}, and no more are needed."
    if cause == "averaging":
        together = f" and {e.concatenated_rank:.1f} side by side" if e.concatenated_rank is not None else ""
        return f"Averaging collapses the features. {uses}{local}{together}; {expected}."
    if not e.local_ranks:
        return f"The features are collapsed. {uses}; {expected}. No local model was measured to tell why."
    return f"Local training collapses the features. {uses}{local}; {expected}."
