from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from decollapse.report import read_run


def test_a_run_is_read_with_its_recipe_records_and_last_spectra(write_run) -> None:
    run = read_run(write_run("a", beta=0.1, seed=3))
    assert (run.name, run.seed, run.num_rounds, run.last_round, run.finished) == ("a", 3, 6, 6, True)
    assert [record["round"] for record in run.records] == list(range(7))
    assert run.spectra is not None
    assert run.spectra.round == 6
    assert run.spectra.covariance.shape == (64,)
    assert run.seconds == 0.5 + 6 * 4.0


def test_local_spectra_come_from_the_last_round_that_measured_clients(write_run) -> None:
    run = read_run(write_run("a", finished=5))
    assert run.spectra is not None
    assert run.local_spectra is not None
    assert (run.spectra.round, run.local_spectra.round) == (5, 3)
    assert run.local_spectra.covariance.shape == (10, 64)


def test_a_setting_that_is_newer_than_the_run_has_its_default(write_run) -> None:
    old = read_run(write_run("old"))
    assert "float16_updates" not in old.description["recipe"]
    assert old.recipe["float16_updates"] is False
    assert old.recipe["client"]["epochs"] == 10


def test_a_recipe_that_names_what_is_not_here_is_read_as_it_is_written(write_run) -> None:
    written = {"model": {"name": "elsewhere:Model"}, "rounds": 6}
    assert read_run(write_run("a", recipe=written)).recipe == written


def test_a_line_cut_off_while_it_was_written_is_left_out(write_run) -> None:
    folder = write_run("a")
    path = folder / "records.jsonl"
    path.write_text(path.read_text()[:-200])
    assert read_run(folder).last_round == 5


def test_a_damaged_line_in_the_middle_is_named(write_run) -> None:
    folder = write_run("a")
    path = folder / "records.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{", *lines[2:]]))
    with pytest.raises(ValueError, match=r"records\.jsonl, line 2 is not a round record"):
        read_run(folder)


def test_a_folder_that_is_no_run_is_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a run folder: it has no run\.json\. Give folders that"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not readable as JSON"), ("[]", "no recipe"), ('{"format": 2, "recipe": {}}', "has format 2")],
)
def test_a_description_that_cannot_be_used_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_run(tmp_path)


def test_a_truncated_spectra_file_is_named(write_run) -> None:
    folder = write_run("a")
    path = folder / "spectra" / "round-0006.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"round-0006\.npz is not a readable spectra file"):
        read_run(folder)


def test_a_run_that_has_only_begun_is_read(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"format": 1, "name": "new", "recipe": {"rounds": 3, "seed": 0}}))
    run = read_run(tmp_path)
    assert (run.records, run.spectra, run.finished, run.classes, run.num_features) == ((), None, False, [], None)


def test_a_series_leaves_out_rounds_that_were_not_evaluated_or_diverged(write_run) -> None:
    def skip_odd(record):
        return {**record, "evaluation": None} if record["round"] % 2 else record

    def diverge(record):
        return {**record, "evaluation": {"accuracy": 0.1, "loss": None if record["round"] > 1 else 2.0}}

    assert [at for at, _ in read_run(write_run("a", change=skip_odd)).series("evaluation", "loss")] == [0, 2, 4, 6]
    assert [at for at, _ in read_run(write_run("b", change=diverge)).series("evaluation", "loss")] == [0, 1]


def test_the_width_of_the_features_is_found_in_the_records_too(write_run) -> None:
    folder = write_run("a")
    description = json.loads((folder / "run.json").read_text())
    del description["model"]["feature_dim"]
    (folder / "run.json").write_text(json.dumps(description))
    assert read_run(folder).num_features == 64


def test_pickles_in_a_spectra_file_are_not_loaded(write_run) -> None:
    folder = write_run("a")
    objects = np.array([{}], dtype=object)
    np.savez(folder / "spectra" / "round-0006.npz", global_covariance=objects, global_correlation=objects)
    with pytest.raises(ValueError, match="not a readable spectra file"):
        read_run(folder)
