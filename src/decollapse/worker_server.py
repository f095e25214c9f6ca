"""The process that workers are forked from: it imports PyTorch once for all of them, and while its parent does.

Python's fork server. A command starts it before it imports anything else, so that a run does not wait for its workers
to import the same a second time. Needs the standard library alone.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, get_context
from multiprocessing.context import ForkServerContext

PRELOADED = ["decollapse.engines.process", "decollapse.catalog", "decollapse.experiment"]


def start() -> None:
    """Start it, unless it runs; it ends with this process."""
    forkserver.set_forkserver_preload(PRELOADED)
    with _ctrl_c_ignored():
        forkserver.ensure_running()


def worker_context() -> ForkServerContext:
    """Where workers are made."""
    start()
    return get_context("forkserver")


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    """Processes started in this block ignore Ctrl-C from their first instruction on: it is the parent's to handle."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
