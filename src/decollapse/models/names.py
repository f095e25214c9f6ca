"""Names of layers and parameters, in the words of an error."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest_names(name: str, known: Iterable[str]) -> str:
    """The three of `known` that look most like `name`, for the end of a sentence.

    >>> nearest_names("encoder.stag3", ["head", "encoder.stage3", "encoder.stage2", "encoder.conv"])
    'encoder.stage3, encoder.stage2, encoder.conv'
    """
    return ", ".join(get_close_matches(name, list(known), n=3, cutoff=0.0)) or "none"
