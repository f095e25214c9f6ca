"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

Overrides = Annotated[tuple[str, ...], Parameter(name=["--set", "-s"], negative=(), consume_multiple=False)]
Sweeps = Annotated[tuple[str, ...], Parameter(name="--sweep", negative=(), consume_multiple=False)]
AsJson = Annotated[bool, Parameter(name="--json", negative=())]
