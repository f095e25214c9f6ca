"""How to repeat the runs of a report."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from decollapse.report.labels import Path
from decollapse.report.markup import code, folded, paragraphs
from decollapse.report.summary import Group


def commands(groups: Sequence[Group]) -> str:
    """A recipe file for each setting, and the commands that repeat its runs and this page."""
    blocks = []
    for number, group in enumerate(groups, start=1):
        name = "recipe.toml" if len(groups) == 1 else f"recipe-{number}.toml"
        seeds = [str(run.seed) for run in group.runs if run.seed is not None]
        sweep = f" --sweep seed={','.join(dict.fromkeys(seeds))}" if len(set(seeds)) > 1 else ""
        recipe = code(toml(group.runs[0].recipe))
        body = paragraphs([f"Save as {name}:"]) + recipe + paragraphs(["Then:"]) + code(f"decollapse run {name}{sweep}")
        blocks.append(folded(group.label, body))
    folders = [shlex.quote(str(run.folder)) for group in groups for run in group.runs]
    return "".join(blocks) + paragraphs(["This page:"]) + code(" \\\n    ".join(["decollapse report", *folders]))


def toml(recipe: Mapping[str, Any], prefix: Path = ()) -> str:
    """A recipe as a TOML file; null values, which TOML does not have, are left out.

    >>> print(toml({"seed": 0, "client": {"epochs": 5, "objective": {"cross_entropy": {}}}}))
    seed = 0
    <BLANKLINE>
    [client]
    epochs = 5
    <BLANKLINE>
    [client.objective.cross_entropy]
    """
    tables = {key: value for key, value in recipe.items() if isinstance(value, Mapping)}
    lines = [
        f"{_key(key)} = {_toml(value)}" for key, value in recipe.items() if key not in tables and value is not None
    ]
    parts = ["\n".join(([f"[{'.'.join(map(_key, prefix))}]"] if prefix else []) + lines)]
    parts = [] if not lines and (tables or not prefix) else parts
    return "\n\n".join(parts + [toml(value, (*prefix, str(key))) for key, value in tables.items()])


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_key(key)} = {_toml(item)}' for key, item in value.items())}}}"
    # JSON has no infinity; its strings, integers and booleans are TOML's.
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def _key(key: str) -> str:
    bare = key.replace("_", "").replace("-", "")
    return key if bare.isascii() and bare.isalnum() else json.dumps(key, ensure_ascii=False)
