"""How far the numbers of a diagnosis can be trusted, in sentences."""

from __future__ import annotations

from math import sqrt

from decollapse.diagnosis.sparkline import few_examples
from decollapse.diagnosis.verdict import Evidence, judge

COLLAPSES = ("collapse", "local_training", "averaging")


def caveats(
    evidence: Evidence,
    *,
    accuracy: float | None = None,
    num_missing: int = 0,
    untrained: bool = False,
) -> tuple[str, ...]:
    """What a reader should know before believing a verdict; nothing where there is nothing to say.

    Args:
        evidence: what the verdict was made from.
        accuracy: of the averaged model, 0 to 1; None where it was not measured.
        num_missing: classes without an example in the probe.
        untrained: whether the model is as it was initialised.

    >>> caveats(Evidence(1000, 64, 10, 0, averaged_rank=2.0), accuracy=0.1)  # doctest: +NORMALIZE_WHITESPACE
    ('10.0 % of the examples are classified right, no more than by chance: whatever its rank, the model has not
     learned, or has diverged.',)
    """
    sentences = [few_examples(evidence.num_examples, evidence.num_features)]
    if num_missing:
        sentences.append(
            f"{num_missing} of {evidence.num_classes + num_missing} classes have no example in the probe: what the "
            "model makes of them is not seen, and no dimensions are expected for them."
        )
    if untrained:
        sentences.append("This is the untrained model: its rank says nothing of training.")
    elif accuracy is not None and accuracy <= _best_of_chance(evidence):
        sentences.append(
            f"{100 * accuracy:.1f} % of the examples are classified right, no more than by chance: whatever its "
            "rank, the model has not learned, or has diverged."
        )
    return tuple(sentence for sentence in sentences if sentence)


def reference_caveats(evidence: Evidence, reference: Evidence) -> tuple[str, ...]:
    """What to know before believing a comparison.

    >>> reference_caveats(Evidence(1000, 64, 10, 0, 5.0), Evidence(1000, 64, 10, 0, 2.0))
    ('The reference run is collapsed itself: it uses 2.0 dimensions.',)
    """
    sentences = []
    if judge(reference).cause in COLLAPSES:
        sentences.append(f"The reference run is collapsed itself: it uses {reference.averaged_rank:.1f} dimensions.")
    if reference.num_examples != evidence.num_examples:
        sentences.append(
            f"The reference was measured on {reference.num_examples:,} examples and this on "
            f"{evidence.num_examples:,}; a rank grows with the examples it is measured on."
        )
    return tuple(sentences)


def _best_of_chance(evidence: Evidence) -> float:
    """What guessing exceeds about once in a thousand times: `p + 3 sqrt(p (1 - p) / n)` with p = 1 / C."""
    p = 1 / max(evidence.num_classes, 1)
    return p + 3 * sqrt(p * (1 - p) / max(evidence.num_examples, 1))
