"""Agreement with the reference release, bytedance/FedDecorr at 973e4af, run in float64 on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from decollapse.algorithms import (
    fedadagrad,
    fedadam,
    fedavg,
    fedavgm,
    fedexp,
    fednova,
    fedrs,
    moon,
    with_term,
)
from decollapse.client import ClientUpdate
from decollapse.core import ClientData, ModelState
from decollapse.engines import Federation
from decollapse.engines.serial import Serial
from decollapse.models import Classifier
from decollapse.optim import SGD
from decollapse.server_state import ServerState
from decollapse.simulation import run_round
from decollapse.terms.feddecorr import FedDecorr

GOLDEN = Path(__file__).with_name("golden_trajectories.npz")

CLIENT = ClientUpdate(epochs=2, batch_size=16, shuffle=False, optimizer=SGD(lr=0.05, momentum=0.9, weight_decay=1e-4))
NAMES = {"encoder.hidden": "hidden", "encoder.features": "features", "head": "classifier"}


def network() -> Classifier:
    encoder = nn.Sequential()
    encoder.add_module("hidden", nn.Linear(12, 32))
    encoder.add_module("relu", nn.ReLU())
    encoder.add_module("features", nn.Linear(32, 16))
    return Classifier(encoder, nn.Linear(16, 5))


class RecordedClients:
    """The four clients of the recording."""

    def __init__(self, golden: dict[str, np.ndarray]) -> None:
        self.golden = golden

    def __len__(self) -> int:
        return 4

    def __getitem__(self, client: int) -> ClientData:
        x, y = (torch.from_numpy(self.golden[f"client{client}/{key}"]) for key in "xy")
        return ClientData(client, x, y.long(), num_classes=5, preprocess=lambda x: x)

    def num_examples(self, client: int) -> int:
        return len(self.golden[f"client{client}/y"])

    def share_memory(self) -> None: ...


def parameters(golden: dict[str, np.ndarray], prefix: str) -> dict[str, Tensor]:
    """Our names for the tensors of a recording; the release's MOON model keeps its body under `features.`."""
    found = {}
    for ours, theirs in NAMES.items():
        body = "" if f"{prefix}/{theirs}.weight" in golden else "features."
        for leaf in ("weight", "bias"):
            found[f"{ours}.{leaf}"] = torch.from_numpy(golden[f"{prefix}/{body}{theirs}.{leaf}"])
    return found


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN))


EVERYBODY = [range(4)] * 3
METHODS = {
    "fedavg": fedavg(CLIENT),
    "fedavg partial": fedavg(CLIENT),
    "fedavg+feddecorr": with_term(fedavg(CLIENT), FedDecorr(beta=0.1, normalization="release")),
    "moon": moon(CLIENT, mu=1.0, compat="release"),
    "fedavgm": fedavgm(CLIENT, momentum=0.5, compat="release"),
    "fedadagrad": fedadagrad(CLIENT, compat="release"),
    "fedadam": fedadam(CLIENT, compat="release"),
    "fednova": fednova(CLIENT),
    "fedexp": fedexp(CLIENT, compat="release"),
    "fedrs": fedrs(CLIENT, alpha=0.5),
}


@pytest.mark.parametrize("method", METHODS)
def test_three_rounds_give_the_weights_of_the_release(golden: dict[str, np.ndarray], method: str) -> None:
    algorithm = METHODS[method]
    cohorts = [[0, 2], [1, 3], [2, 3]] if method == "fedavg partial" else EVERYBODY
    server = ServerState.initial(ModelState(parameters(golden, "init")), algorithm, num_clients=4)
    with Serial(dtype="float64")(Federation(network, RecordedClients(golden))) as engine:
        for number, cohort in enumerate(cohorts, start=1):
            server, _, rejected = run_round(algorithm, server, engine, list(cohort), seed=0)
            assert not rejected
            for name, expected in parameters(golden, f"{method}/round{number}").items():
                torch.testing.assert_close(server.model.params[name], expected, rtol=1e-9, atol=1e-12)


def test_every_recorded_method_is_compared(golden: dict[str, np.ndarray]) -> None:
    assert {key.partition("/")[0] for key in golden if "/round" in key} == set(METHODS)
