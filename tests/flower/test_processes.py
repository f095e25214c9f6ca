"""No process stays behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from decollapse.flower.processes import end_with_parent, kill, with_environment

DEAF = """
import sys, threading
from decollapse.flower import processes
processes.GRACE = 0.1
processes.end_with_parent()
print("ready", flush=True)
lock = threading.Lock()
lock.acquire()
lock.acquire()  # as where Flower sends something to a SuperLink that is gone
"""
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {DEAF!r}, "--parent-pid", "1"], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
"""


def test_a_process_that_hears_no_signal_ends_with_its_parent() -> None:
    done = subprocess.run([sys.executable, "-c", PARENT], capture_output=True, text=True, check=True, timeout=120)
    orphan = Path("/proc") / done.stdout.strip()
    deadline = time.monotonic() + 60
    while orphan.exists() and "\nState:\tZ" not in (orphan / "status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_process_that_nobody_told_to_end_with_its_parent_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def thread(**_: object) -> None:
        raise AssertionError("it is watched")

    monkeypatch.setattr("decollapse.flower.processes.threading.Thread", thread)
    end_with_parent.__wrapped__()


def test_an_orphan_is_found_by_its_environment() -> None:
    entry = f"STARTED_AS_A_TEST={os.getpid()}"
    name, _, value = entry.partition("=")
    code = "import subprocess; subprocess.Popen(['sleep', '60'])"
    subprocess.run([sys.executable, "-c", code], env=os.environ | {name: value}, check=True)
    (orphan,) = with_environment(entry)
    assert not with_environment(entry + "0")
    kill(orphan)
    deadline = time.monotonic() + 60
    while with_environment(entry):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    kill(orphan)  # gone already
