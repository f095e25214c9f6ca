"""What a client remembers is the same in the next process, and nobody else's to read."""

from __future__ import annotations

import stat
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("cryptography")

from decollapse.flower.memory import MemoryFile, MemoryLostError
from decollapse.secure.client import ClientSecrets
from decollapse.secure.participant import Memory

RUN = bytes(range(16))
SECRETS = ClientSecrets(2, RUN, bytes(range(32)), {0: b"\x00\xff", 3: bytes(32)}, {0: (1, 2, 5)})
LEAF = torch.tensor([0.1, -0.0], dtype=torch.bfloat16)
MEMORY = Memory(SECRETS, {"moon": {"w": LEAF}, "empty": {}}, (3, {"moon": {"w": LEAF, "t": torch.ones(2, 3).T}}))


@pytest.fixture
def file(tmp_path: Path) -> MemoryFile:
    return MemoryFile(tmp_path, RUN, 2)


def save(file: MemoryFile, memory: Memory) -> None:
    with file.locked():
        file.save(memory)


def test_before_it_is_saved_there_is_none(file: MemoryFile) -> None:
    memory = file.load()
    assert (memory.secrets, memory.state, memory.pending) == (None, {}, None)


@pytest.mark.parametrize("memory", [MEMORY, replace(MEMORY, pending=None), Memory(SECRETS), replace(MEMORY, state={})])
def test_it_comes_back_to_the_bit(file: MemoryFile, memory: Memory) -> None:
    save(file, memory)
    came = file.load()
    assert came.secrets == memory.secrets
    assert (came.pending and came.pending[0]) == (memory.pending and memory.pending[0])
    states = [(memory.state, came.state), *([(memory.pending[1], came.pending[1])] if memory.pending else [])]
    for before, after in states:
        assert before.keys() == after.keys()
        for name, tree in before.items():
            assert tree.keys() == after[name].keys()
            assert all(torch.equal(leaf, after[name][key]) for key, leaf in tree.items())
            assert all(leaf.dtype == after[name][key].dtype for key, leaf in tree.items())


def test_its_user_alone_can_read_it(file: MemoryFile) -> None:
    for _ in range(2):
        save(file, MEMORY)
        assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700


def test_runs_and_clients_do_not_mix(file: MemoryFile) -> None:
    save(file, MEMORY)
    assert replace(file, client=3).load().secrets is None
    assert replace(file, run=bytes(16)).load().secrets is None
    other = replace(file, client=3)
    file.path.rename(other.path)
    with pytest.raises(MemoryLostError, match="another client or run"):
        other.load()


@pytest.mark.parametrize("content", [b"", b"junk", b"\x02\x00\x00\x00\x00\x00\x00\x00{}"])
def test_a_damaged_file_is_one_sentence(file: MemoryFile, content: bytes) -> None:
    save(file, MEMORY)
    file.path.write_bytes(content)
    with pytest.raises(MemoryLostError, match="is damaged"):
        file.load()


def test_one_process_at_a_time_answers_for_a_client(file: MemoryFile) -> None:
    entered = threading.Event()

    def enter() -> None:
        with file.locked():
            entered.set()

    with file.locked():
        second = threading.Thread(target=enter)
        second.start()
        assert not entered.wait(0.2)
    second.join(timeout=10)
    assert entered.is_set()


def test_the_secret_is_not_shown(file: MemoryFile) -> None:
    save(file, MEMORY)
    assert SECRETS.root.hex() not in repr(file.load())
