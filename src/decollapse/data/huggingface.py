"""Data sets read with Hugging Face `datasets`, an extra of this package."""

from __future__ import annotations

from decollapse.data.formats import Splits


def read_hugging_face(location: str) -> Splits:
    raise NotImplementedError
