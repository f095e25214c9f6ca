"""Estimate and time taken are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from decollapse.reproduce.times import Call, read_calls, write_calls
from decollapse.runs import RunFolderError


def test_a_folder_without_the_file_has_no_calls(tmp_path: Path) -> None:
    assert read_calls(tmp_path) == []


def test_calls_are_read_in_the_order_they_were_made(tmp_path: Path) -> None:
    calls = [Call(24, 2, 1650.0, 1712.5), Call(8, 1, 60.0, 55.25)]
    write_calls(tmp_path, calls)
    assert read_calls(tmp_path) == calls


@pytest.mark.parametrize("text", ['[{"num_ru', '[{"num_runs": 1}]', '{"num_runs": 1}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "times.json").write_text(text)
    with pytest.raises(RunFolderError, match=r"times\.json is damaged; restore a copy, or delete it"):
        read_calls(tmp_path)
