"""A new app from the template beside this file."""

from __future__ import annotations

import re
from pathlib import Path

TEMPLATE = Path(__file__).with_name("template")
RENAMED = {"package": "PACKAGE", "gitignore": ".gitignore"}
"""Parts of paths in the template that are not called so in an app."""


def new_app(folder: Path) -> Path:
    """Write a ready app into `folder`, which is made; its name is the app's.

    Raises:
        ValueError: the folder holds something, or its name is none that Flower takes.
    """
    name = folder.absolute().name
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,38}", name):
        raise ValueError(f"an app's name has letters, digits and hyphens and begins with a letter, got {name!r}.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already; a new app takes a new folder.")
    package = name.replace("-", "_").lower()
    for source in sorted(TEMPLATE.rglob("*")):
        if source.is_file() and "__pycache__" not in source.parts:
            parts = [RENAMED.get(part, part) for part in source.relative_to(TEMPLATE).parts]
            target = folder.joinpath(*(part.replace("PACKAGE", package) for part in parts))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(source.read_text().replace("PACKAGE", package).replace("NAME", name))
    return folder
