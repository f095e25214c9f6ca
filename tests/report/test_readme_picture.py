from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from decollapse.report import group_runs, read_run

SCRIPT = Path(__file__).parents[2] / "scripts" / "readme_picture.py"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme_picture", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_has_one_curve_a_setting_at_the_right_heights(script: ModuleType, two_groups) -> None:
    groups = group_runs([read_run(path) for path in two_groups])
    drawing = ET.fromstring(script.picture(groups))
    curves = [curve.get("points").split() for curve in drawing.iter(f"{SVG}polyline")]
    assert [len(curve) for curve in curves] == [55, 64]  # nine dimensions of the first setting are dead
    values = np.prod([run.spectra.covariance for run in groups[1].runs], axis=0) ** (1 / 3)
    heights = [float(point.split(",")[1]) for point in curves[1]]
    assert heights[0] == script.TOP
    drop = (heights[-1] - heights[0]) / (heights[31] - heights[0])
    assert drop == pytest.approx(np.log(values[-1] / values[0]) / np.log(values[31] / values[0]), rel=0.01)


def test_each_setting_is_named_with_its_numbers(script: ModuleType, six_groups) -> None:
    groups = group_runs([read_run(path) for path in six_groups])
    drawing = ET.fromstring(script.picture(groups))
    words = ["".join(text.itertext()) for text in drawing.iter(f"{SVG}text")]
    for group in groups:
        (line,) = [text for text in words if text.startswith(f"{group.label}effective")]
        assert "test accuracy" in line
    assert int(drawing.get("height")) == script.HEIGHT + 4 * script.KEY_HEIGHT


def test_runs_without_spectra_are_a_clear_error(script: ModuleType, write_run) -> None:
    with pytest.raises(ValueError, match="none of these runs has recorded a spectrum"):
        script.picture(group_runs([read_run(write_run("a", finished=None))]))
