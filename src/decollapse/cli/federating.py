"""Commands for federations of several machines: flower new, flower up."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from cyclopts import App

flower = App(name="flower", help="Run the same algorithm where the data live, with Flower.")


@flower.command
def new(folder: Path, /) -> None:
    """Write a ready Flower app: data, model, recipe; it runs in a simulation and on a federation as it is.

    Example: decollapse flower new hospitals

    Parameters
    ----------
    folder
        A new folder; its name is the app's, of letters, digits and hyphens.
    """
    _need_flower()
    from decollapse.flower.scaffold import new_app

    written = new_app(folder)
    sys.stdout.write(f"{written}: try it with `cd {written} && decollapse flower up --nodes 3`\n")


@flower.command
def up(*, nodes: int = 3) -> None:
    """Start a federation on this machine, over TLS, each node with its own key, until Ctrl-C; nothing is left behind.

    Example: decollapse flower up --nodes 3

    Parameters
    ----------
    nodes
        How many nodes: node k has partition-id=k.
    """
    _need_flower()
    if nodes < 1:
        raise ValueError(f"a federation has at least 1 node, got --nodes {nodes}.")
    from decollapse.flower.local import NAME, local_federation, until_asked_to_end

    with until_asked_to_end(), local_federation(nodes, Path.cwd()) as federation:
        sys.stdout.write(
            f"{nodes} nodes, SuperLink on 127.0.0.1:{federation.port}. In another terminal, in the app's folder:\n\n"
            f"  FLWR_HOME={federation.folder / 'home'} flwr run . {NAME} --stream\n\n"
            f"Logs are in {federation.folder}; Ctrl-C ends it.\n"
        )
        sys.stdout.flush()
        federation.watch()


def _need_flower() -> None:
    if find_spec("flwr") is None:
        raise ValueError("this needs Flower, which is not installed: pip install 'decollapse[flower]'.")
