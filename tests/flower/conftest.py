from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests look for answers often: those of this process are there at once."""
    if find_spec("flwr"):
        monkeypatch.setattr("decollapse.flower.roster.POLL", 0.01)
        monkeypatch.setattr("decollapse.flower.inbox.POLL", 0.01)
        monkeypatch.setattr("decollapse.flower.inbox.CHECK", 0.05)
