"""Labels as settings: what "MOON + FedDecorr" or "α 0.05" means in a recipe."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from pydantic import TypeAdapter

from decollapse.schema import RecipeError, nearest

FORBID: dict[str, Any] = {"extra": "forbid"}
"""pydantic's setting that makes an unknown key in a file an error."""
VALUE = "{}"


@dataclass(frozen=True)
class Word:
    """What one word of a label means.

    Attributes:
        set: settings of a recipe, `key=value`; `{}` stands for the value in the label.
        on: more of them at a scale ("paper"), for a data set ("cifar100"), or for both ("paper/cifar10").
        note: what a reader of the table has to know of it.
    """

    __pydantic_config__: ClassVar[Any] = FORBID
    set: tuple[str, ...] = ()
    on: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    note: str = ""

    def settings(self, value: str, places: tuple[str, ...]) -> list[str]:
        """The settings at `places`, those keys of `on` that hold, with `value` put in.

        >>> Word(set=("partition.alpha={}",), on={"small": ("rounds=2",)}).settings("0.1", ("small",))
        ['partition.alpha=0.1', 'rounds=2']
        """
        found = [*self.set, *(setting for place in places for setting in self.on.get(place, ()))]
        return [setting.replace(VALUE, value) for setting in found]


Words = Mapping[str, Word]


@cache
def shared_words() -> Words:
    """The words that every table can use: `words.toml`."""
    table = tomllib.loads(Path(__file__).with_name("words.toml").read_text())
    return TypeAdapter(dict[str, Word]).validate_python(table)


def meanings(label: str, words: Words) -> list[tuple[Word, str]]:
    """The words of a label, each with its value, which has no spaces; a label that is a word as a whole is that one.

    Raises:
        RecipeError: a part of the label is no word.

    >>> [(word.set, value) for word, value in meanings("α 0.05", shared_words())]
    [(('partition={name="dirichlet", alpha={}}',), '0.05')]
    """
    return [_meaning(part, words) for part in ([label] if label in words else label.split(" + "))]


def _meaning(part: str, words: Words) -> tuple[Word, str]:
    if part in words:
        return words[part], ""
    for key, word in words.items():
        before, holds_value, after = key.partition(VALUE)
        value = part[len(before) : len(part) - len(after)]
        if holds_value and part == before + value + after and value and " " not in value:
            return word, value
    raise RecipeError(f"a label says {part!r}, which is no word of words.toml or of the preset{nearest(part, words)}")
