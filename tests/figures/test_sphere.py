"""Features on the unit sphere: by hand, against an eigendecomposition, and of a run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_study import Drawn

from decollapse.experiment import prepare
from decollapse.figures.panels import ALPHA, panels_of
from decollapse.figures.sphere import sphere_of_run, spheres_of, unit_sphere
from decollapse.report.view import read_run
from decollapse.runs import RunFolder


def test_points_on_an_axis_stay_there_wherever_the_mean_is() -> None:
    corners = torch.tensor([[3.0, 0, 0, 0], [-3, 0, 0, 0], [0, 0, 2, 0], [0, 0, -2, 0], [0, 1, 0, 0], [0, -1, 0, 0]])
    points, share = unit_sphere(corners + torch.tensor([5.0, -7.0, 1.0, 4.0]))
    torch.testing.assert_close(
        points.abs(), torch.eye(3, dtype=torch.float64).repeat_interleave(2, 0), atol=1e-6, rtol=0
    )
    assert share == pytest.approx(1.0)


def test_directions_and_share_are_those_of_the_covariance() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 6)) * [5, 4, 3, 2, 1, 0.5] + rng.normal(size=6)
    points, share = unit_sphere(torch.from_numpy(features))
    values, vectors = np.linalg.eigh(np.cov(features.T))
    projected = (features - features.mean(0)) @ vectors[:, ::-1][:, :3]
    expected = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    np.testing.assert_allclose(np.abs(points.numpy()), np.abs(expected), atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(points.numpy(), axis=1), 1.0)
    assert share == pytest.approx(values[-3:].sum() / values.sum())


def test_a_direction_has_the_same_sign_whatever_the_order_of_the_examples() -> None:
    features = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(unit_sphere(features.flip(0))[0], unit_sphere(features)[0].flip(0))


@pytest.mark.parametrize(
    ("features", "sentence"),
    [
        (torch.zeros(10, 2), r"at least 4 examples of 3 features, got shape \(10, 2\)"),
        (torch.ones(10, 3), "the same for every example"),
    ],
)
def test_features_that_fill_no_sphere_are_refused(features: torch.Tensor, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        unit_sphere(features)


def test_a_sphere_shows_the_probe_under_the_last_global_model(drawn: Drawn) -> None:
    path = drawn.folder / "runs" / "iid" / "seed=1"
    found = sphere_of_run(read_run(path), "this one")
    folder = RunFolder.open(path)
    prepared = prepare(folder.experiment)
    model = prepared.build_model()
    state = folder.load()
    assert state is not None
    state.model.load_into(model)
    model.eval()
    with torch.no_grad():
        features = model(prepared.dataset.preprocess(prepared.probe.x)).features.double().numpy()
    values = np.linalg.svd(features - features.mean(0), compute_uv=False) ** 2
    assert found.share == pytest.approx(values[:3].sum() / values.sum(), rel=1e-5)
    assert found.labels.equal(prepared.probe.y)
    assert (len(found.points), found.seed, found.title) == (80, 1, "this one")


def test_the_chosen_runs_are_equal_unequal_and_repaired_clients_of_the_first_seed(drawn: Drawn) -> None:
    folders = sorted(path.parent for path in drawn.folder.rglob("run.json"))
    found, notes = spheres_of(panels_of([read_run(folder) for folder in folders]))
    titles = ["IID, FedAvg", f"{ALPHA} = 0.01, FedAvg", f"{ALPHA} = 0.01, FedAvg + FedDecorr 0.1"]
    assert [(sphere.title, sphere.seed) for sphere in found] == [(title, 0) for title in titles]
    assert notes == []


def test_a_run_without_weights_or_on_other_data_has_no_sphere_and_a_reason(drawn: Drawn, tmp_path: Path) -> None:
    shutil.copytree(drawn.folder / "runs" / "iid" / "seed=0", tmp_path / "run")
    panels = panels_of([read_run(tmp_path / "run")])
    found, (note,) = spheres_of(panels, data="fashion-mnist-small")
    assert found == []
    assert "'fashion-mnist-small' are not those" in note
    (tmp_path / "run" / "checkpoint.safetensors").unlink()
    found, (note,) = spheres_of(panels)
    assert found == []
    assert "has no checkpoint" in note
