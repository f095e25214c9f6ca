"""One side as a process of its own: on some cores, within a time limit, its memory watched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Result = dict[str, Any]
TICK = 1.0
"""Seconds between two looks at the memory; a look takes a few milliseconds."""


def run(command: Sequence[str], *, cores: set[int], limit: float, environment: dict[str, str], folder: Path) -> Result:
    """Start `command`, wait; return what its line of JSON says with `peak_mb` and `wall`, or {"error": ...}."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=errors,
            cwd=folder,
            env=os.environ | environment,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        memory = Memory(process.pid)
        with memory:
            try:
                code = process.wait(timeout=limit)
            except subprocess.TimeoutExpired:
                end(process)
                return {"error": f"stopped after the limit of {limit:g} s"}
            except BaseException:
                end(process)
                raise
        wall = time.perf_counter() - began
        output.seek(0)
        lines = [line for line in output.read().splitlines() if line.startswith('{"seconds"')]
        if code or not lines:
            errors.seek(0)
            return {"error": f"exit code {code}: {last_words(errors.read())}"}
        return json.loads(lines[-1]) | {"peak_mb": round(memory.peak_mb, 1), "wall": wall}


def last_words(errors: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "nothing on stderr"


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    started = descendants(process.pid)
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for pid in started:  # Ray's daemons have sessions of their own
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def descendants(root: int) -> set[int]:
    """The processes that `root` started, directly or not."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The command's name, in brackets, may contain anything.
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has ended
    found, new = set(), {root}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new} - found
        found |= new
    return found


def proportional_mb(pid: int) -> float:
    """Memory of a process in MB; a page that several processes share counts in parts. 0 if it has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("Pss:")), 0.0)


class Memory:
    """Watches a process and its descendants from a thread; `peak_mb` is the most they had at once."""

    def __init__(self, pid: int) -> None:
        self.pid, self.peak_mb = pid, 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(TICK):
            self.peak_mb = max(self.peak_mb, sum(map(proportional_mb, {self.pid} | descendants(self.pid))))
