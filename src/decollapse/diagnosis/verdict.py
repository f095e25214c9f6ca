"""A verdict in words from the numbers of a diagnosis, and what to do about it.

A healthy classifier of C classes uses at least the C - 1 dimensions that its class means span. All ranks here are
effective ranks of covariances on one probe of n examples, and `local` is the median over the local models. The rules,
in their order:

    too few examples    C < 2, or n < 10 (f + 1), or n - 1 < 2 r
    dead units          more than a fifth of the d dimensions is constant
    collapse            averaged < 0.7 r; or local < 0.35 r, where there is no reference. Its cause is
        local training      if local training lost the larger factor: local / r <= averaged / local
        averaging           if averaging did
        collapse            (not known) if no local model was measured
    few classes         averaged >= 0.7 min(C - 1, d), yet < min(d / 2, 2 (C - 1)): no collapse, and few dimensions
    no collapse         everything else

f is `min(C - 1, d, 9)`, and r is f, or the rank of a reference run. With many classes a model that has just begun to
learn uses few dimensions wherever its data are, so without a reference nothing above 9 is asked for. Local models are
asked for half as much, because a client's own classes are fewer, and averaging brings back what different clients lost.
A factor of 10 in examples leaves a healthy model at least 0.83 r even if its spectrum decays slowly, so that too few
examples are not taken for a collapse. Calibration: constructed cases in tests/diagnosis/test_verdict.py, and the
CIFAR-10 runs of docs/results/cifar10.md; see docs/diagnosis.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import Literal

Cause = Literal[
    "no_collapse", "few_classes", "local_training", "averaging", "collapse", "dead_units", "too_few_examples"
]

ENOUGH = 0.7
"""Share of the expected rank that counts as having it."""
ENOUGH_LOCALLY = 0.35
"""The same for a local model."""
DEAD = 0.2
"""Share of constant dimensions from which on they are the finding."""
MOST_EXPECTED = 9
"""Dimensions that are expected of any classifier of so many classes or more."""
EXAMPLES_A_DIMENSION = 10


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
    def expected_by_classes(self) -> int:
        """f, `min(C - 1, d, 9)`."""
        return min(self.num_classes - 1, self.num_features, MOST_EXPECTED)

    @property
    def expected_rank(self) -> float:
        """r: the reference's rank, or f."""
        return self.expected_by_classes if self.reference_rank is None else self.reference_rank

    @property
    def local_rank(self) -> float | None:
        """The median over the local models; None where none was measured."""
        return median(self.local_ranks) if self.local_ranks else None

    @property
    def examples_needed(self) -> int:
        """The fewest examples that the first rule lets through."""
        return max(EXAMPLES_A_DIMENSION * (self.expected_by_classes + 1), math.ceil(2 * self.expected_rank) + 1)


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Attributes:
        cause: one of seven.
        sentence: the finding, with its numbers.
        remedy: what to do.
    """

    cause: Cause
    sentence: str
    remedy: str


REMEDIES: dict[Cause, str] = {
    "no_collapse": "Nothing to repair.",
    "few_classes": (
        "Nothing to repair: the means of C classes span C - 1 dimensions. A healthy run to compare with can tell "
        "whether more would help."
    ),
    "local_training": (
        "Add FedDecorr to the clients' loss: client.objective.feddecorr.beta=0.1 behind BatchNorm, and "
        'beta=0.03 with matrix="covariance" without it.'
    ),
    "averaging": (
        "Let the local models drift apart less: fewer local epochs, algorithm=fedprox or scaffold, or group "
        "normalisation in place of BatchNorm."
    ),
    "collapse": (
        "Measure local models, too (evaluation.local_every=1): they tell whether local training is the cause, "
        "which FedDecorr repairs, or averaging."
    ),
    "dead_units": (
        'Keep units alive: FedDecorr with matrix="covariance" rather than "correlation", a normalisation '
        "layer before the ReLU, or a smaller learning rate."
    ),
    "too_few_examples": "Measure on more examples of more classes (evaluation.probe_size); best are 5 a dimension.",
}


def judge(evidence: Evidence) -> Verdict:
    """Apply the rules of this module.

    >>> judge(Evidence(1000, 64, 10, 0, averaged_rank=4.0, local_ranks=(3.1, 3.4, 2.9))).cause
    'local_training'
    """
    cause = _cause(evidence)
    return Verdict(cause, _sentence(cause, evidence), REMEDIES[cause])


def _cause(e: Evidence) -> Cause:
    r, local = e.expected_rank, e.local_rank
    if e.num_classes < 2 or e.num_examples < e.examples_needed:
        return "too_few_examples"
    if e.num_dead > DEAD * e.num_features:
        return "dead_units"
    locally = e.reference_rank is None and local is not None and local < ENOUGH_LOCALLY * r
    if e.averaged_rank < ENOUGH * r or locally:
        if local is None:
            return "collapse"
        # local / r <= averaged / local, multiplied out because a rank may be 0.
        return "local_training" if local * local <= e.averaged_rank * r else "averaging"
    most = e.num_classes - 1
    few = ENOUGH * min(most, e.num_features) <= e.averaged_rank < min(e.num_features / 2, 2 * most)
    return "few_classes" if few else "no_collapse"


def _sentence(cause: Cause, e: Evidence) -> str:
    if cause == "too_few_examples":
        many = f"{e.num_examples} examples of {e.num_classes} {'class' if e.num_classes == 1 else 'classes'}"
        return f"{many} are too few to tell: {e.examples_needed} examples of at least 2 classes are needed."
    return f"{_finding(cause, e)} {_numbers(e)}{_addition(cause, e)}"


def _finding(cause: Cause, e: Evidence) -> str:
    if cause == "dead_units":
        return f"{e.num_dead} of {e.num_features} dimensions are dead: the same for every example."
    findings = {
        "collapse": "The features are collapsed.",
        "averaging": "Averaging collapses the features.",
        "local_training": "Local training collapses the features.",
    }
    return findings.get(cause, "No collapse.")


def _numbers(e: Evidence) -> str:
    local = f", its local models {e.local_rank:.1f} (median of {len(e.local_ranks)})" if e.local_ranks else ""
    expected = f"at least {e.expected_by_classes} are expected of {e.num_classes} classes"
    if e.reference_rank is not None:
        expected = f"the reference run uses {e.reference_rank:.1f}"
    model = "The averaged model" if e.local_ranks else "The model"
    return f"{model} uses {e.averaged_rank:.1f} of {e.num_features} dimensions{local}; {expected}."


def _addition(cause: Cause, e: Evidence) -> str:
    most = min(e.num_classes - 1, e.num_features)
    if cause == "averaging" and e.concatenated_rank is not None:
        return f" Side by side, the local models' features use {e.concatenated_rank:.1f}."
    if cause == "local_training" and e.averaged_rank >= ENOUGH * e.expected_rank:
        return " Averaging brings back what the local models lost."
    if cause == "collapse":
        return " No local model was measured to tell why."
    if cause == "few_classes":
        return f" That is about what {e.num_classes} classes span by nature, {most}."
    if cause == "no_collapse" and e.reference_rank is None and e.averaged_rank < ENOUGH * most:
        return f" With {e.num_classes} classes up to {most} can be of use: only a healthy run to compare with can tell."
    return ""
