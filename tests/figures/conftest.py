"""A study of the paper's figures in seconds: digits, a small MLP, two seeds; and run views that were never trained."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_study import STUDY, Drawn, MakeView

from decollapse import cli
from decollapse.report.eigenvalues import GlobalSpectra, LocalSpectra
from decollapse.report.view import RunView


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    folder = tmp_path_factory.mktemp("figures")
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert cli.run_command([*STUDY, "--out", str(folder)]) == 0
    return Drawn(folder, out.getvalue(), err.getvalue())


@pytest.fixture
def make_view(tmp_path: Path) -> MakeView:
    def make(
        partition: dict[str, Any],
        *,
        beta: float | None = None,
        seed: int = 0,
        spectrum: list[float] | None = [1.0, 0.1],  # noqa: B006  # read only
        local: list[list[float]] | None = None,
        rounds: int = 2,
        last: int = 2,
        loss: float | None = 1.0,
    ) -> RunView:
        objective = {"cross_entropy": {}} | ({} if beta is None else {"feddecorr": {"beta": beta}})
        recipe = {"partition": partition, "client": {"objective": objective}, "rounds": rounds, "seed": seed}
        name = f"{partition},{beta},{seed}".replace("/", "_")
        records = tuple({"round": at, "evaluation": {"accuracy": 0.5, "loss": loss}} for at in range(last + 1))
        values = None if spectrum is None else np.array(spectrum)
        return RunView(
            folder=tmp_path / name,
            description={"name": name, "recipe": recipe},
            records=records,
            spectra=None if values is None else GlobalSpectra(last, values, values),
            local_spectra=None if local is None else LocalSpectra(last, tuple(range(len(local))), np.array(local)),
        )

    return make
