from __future__ import annotations

from pathlib import Path

import pytest

from decollapse.config import RecipeError
from decollapse.runs import RunFolderError
from decollapse.study import create_runs, run_name, sweep_values


def test_every_combination_of_the_sweeps_is_a_run_of_its_own(tmp_path: Path) -> None:
    folders = create_runs(None, ["data=digits"], ["seed=0,1", "client.objective.feddecorr.beta=0,0.1"], tmp_path)
    assert [folder.path.name for folder in folders] == [
        "seed=0,beta=0",
        "seed=0,beta=0.1",
        "seed=1,beta=0",
        "seed=1,beta=0.1",
    ]
    assert [folder.experiment.seed for folder in folders] == [0, 0, 1, 1]
    assert folders[3].experiment.client.objective[1].beta == 0.1  # type: ignore[attr-defined]  # it is FedDecorr


def test_words_and_lists_can_be_swept() -> None:
    assert sweep_values("model=resnet20,mlp") == [("model", "resnet20"), ("model", "mlp")]
    assert sweep_values("model.hidden=[8],[8,4]") == [("model.hidden", "[8]"), ("model.hidden", "[8, 4]")]


def test_keys_with_the_same_last_word_are_written_out() -> None:
    assert run_name([("client.optimizer.lr", "1"), ("server.lr", "2")]) == "client.optimizer.lr=1,server.lr=2"


def test_nothing_is_made_if_one_of_the_recipes_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="alpha"):
        create_runs(None, [], ["partition.alpha=0.1,0"], tmp_path / "study")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("sweep", ["seed", "seed=", "=1,2"])
def test_a_sweep_without_key_or_values_is_refused(sweep: str) -> None:
    with pytest.raises(RecipeError, match="key=a,b,c"):
        sweep_values(sweep)


def test_a_value_given_twice_is_refused() -> None:
    with pytest.raises(RecipeError, match="a value twice"):
        sweep_values("seed=0,1,0")


def test_a_folder_with_another_run_is_left_alone_and_the_difference_named(tmp_path: Path) -> None:
    create_runs(None, ["client.epochs=2"], [], tmp_path / "run")
    (tmp_path / "run" / "checkpoint.safetensors").touch()  # it has begun
    with pytest.raises(RunFolderError, match="client.epochs is 2 there and 3 here"):
        create_runs(None, ["client.epochs=3"], [], tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"this run already; go on with `decollapse resume"):
        create_runs(None, ["client.epochs=2"], [], tmp_path / "run")


def test_a_run_that_never_began_gives_way(tmp_path: Path) -> None:
    create_runs(None, ["client.epochs=2"], [], tmp_path / "run")
    (folder,) = create_runs(None, ["client.epochs=3"], [], tmp_path / "run")
    assert folder.experiment.client.epochs == 3
