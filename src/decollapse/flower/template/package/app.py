"""The app's two components, as pyproject.toml names them: the server's is at one place, the client's at each node."""

from __future__ import annotations

from pathlib import Path

from decollapse.flower import OwnData, make_client_app, make_server_app

from .data import CLASSES, PREPROCESS, client_data, test_data

data = OwnData(client_data, test_data, CLASSES, PREPROCESS)
server_app = make_server_app(Path(__file__).with_name("recipe.toml"), data)
client_app = make_client_app(data)
