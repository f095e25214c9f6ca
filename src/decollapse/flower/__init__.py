"""A federation of several machines: the same algorithm, records and reports, with Flower as the transport.

    data = OwnData(client_data, test_data, CLASSES, PREPROCESS)
    server_app = make_server_app(Path(__file__).with_name("recipe.toml"), data)
    client_app = make_client_app(data)

Needs the extra `flower`: `pip install 'decollapse[flower]'`. `decollapse flower new DIR` writes a ready app.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from decollapse.flower.data import DataOfApp, DealtData, OwnData

if TYPE_CHECKING:
    from flwr.app import Context
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp

__all__ = ["DealtData", "OwnData", "make_client_app", "make_server_app"]

# An app names both components in one module, and a client is a fresh process for every message: each imports its own.


def make_server_app(recipe: Path, data: DataOfApp = DealtData()) -> ServerApp:
    """The server's component of a Flower app that runs a recipe.

    Args:
        recipe: a TOML file of the app; the clients are sent what it says.
        data: where the examples are. By default the recipe's own data set and partition, at every client: to try out.
    """
    from flwr.serverapp import ServerApp

    def main(grid: Grid, context: Context) -> None:
        from decollapse.flower.processes import end_with_parent
        from decollapse.flower.server import run_federation

        end_with_parent()
        run_federation(grid, recipe.read_text(), data, context.run_config)

    app = ServerApp()
    app.main()(main)
    return app


def make_client_app(data: DataOfApp = DealtData()) -> ClientApp:
    """The client's component, for the same data."""
    from decollapse.flower.client import client_app

    return client_app(data)
