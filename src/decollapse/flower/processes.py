"""Ends processes that Flower would leave behind."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from functools import cache
from pathlib import Path

GRACE = 10.0
"""Seconds in which Flower's own way of ending may do."""


@cache
def end_with_parent() -> None:
    """In a process of Flower's that was told to end with its parent: do so, whatever its main thread waits for.

    Flower 1.41 raises SIGINT in a thread. A main thread that is sending something just then repeats it until the
    SuperLink comes back, and never sees the signal; a server app would keep its run folder locked for as long.
    """
    if "--parent-pid" not in sys.argv:
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        time.sleep(GRACE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def kill(process: int) -> None:
    """End a process at once, if it is there."""
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return


def with_environment(entry: str) -> list[int]:
    """The processes that were started with `NAME=value` in their environment, orphans too; none without a /proc."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            entries = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # somebody else's, or it has just ended
        found += [int(process.name)] if entry.encode() in entries else []
    return found
