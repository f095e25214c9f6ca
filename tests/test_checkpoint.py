from __future__ import annotations

from pathlib import Path

import pytest
import torch

from decollapse import checkpoint
from decollapse.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from decollapse.core import ModelState
from decollapse.server_state import ServerState

SERVER = ServerState(
    round=3,
    model=ModelState({"w": torch.tensor([[1.0, -0.0], [3.0, 4.0]])}, {"num_batches_tracked": torch.tensor(7)}),
    optimizer={"w": torch.full((2, 2), 0.5, dtype=torch.float64)},
    clients={11: {"moon": {"w": torch.ones(2)}, "buffers": {"bn.running_mean": torch.zeros(3)}}},
    shared={"global_feddecorr/features": torch.eye(2)},
)


def test_what_was_saved_is_loaded_with_dtypes_and_client_states(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, SERVER, recipe="abc")
    loaded = load_checkpoint(path, recipe="abc")
    assert loaded.round == 3
    assert torch.equal(loaded.model.params["w"], SERVER.model.params["w"])
    assert loaded.model.buffers["num_batches_tracked"].dtype == torch.int64
    assert loaded.optimizer["w"].dtype == torch.float64
    assert torch.equal(loaded.clients[11]["moon"]["w"], torch.ones(2))
    assert loaded.clients[11]["buffers"].keys() == {"bn.running_mean"}
    assert torch.equal(loaded.shared["global_feddecorr/features"], torch.eye(2))


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, SERVER, recipe="abc")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="truncated or no checkpoint"):
        load_checkpoint(path, recipe="abc")


def test_an_altered_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, SERVER, recipe="abc")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match="altered after it was saved"):
        load_checkpoint(path, recipe="abc")


def test_another_recipes_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, SERVER, recipe="abc")
    with pytest.raises(CheckpointError, match="another recipe"):
        load_checkpoint(path, recipe="xyz")


def test_a_full_disk_leaves_the_old_checkpoint_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, SERVER, recipe="abc")

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, ServerState(4, SERVER.model, {}), recipe="abc")
    assert [file.name for file in tmp_path.iterdir()] == ["c.safetensors"]
    assert load_checkpoint(path, recipe="abc").round == 3
