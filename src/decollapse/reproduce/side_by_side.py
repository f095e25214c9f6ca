"""Several pieces of work at the same time, each in a process of its own that tells how it goes.

A run trained in one process with one thread, beside another on the next core, leaves no core waiting for the other: the
fastest way through a grid. Processes are forked from the worker server, ignore Ctrl-C, which is the parent's to handle,
and end with it, however it ends.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from decollapse.engines.memory import keep_freed_memory
from decollapse.worker_server import worker_context

if TYPE_CHECKING:
    Pipe = Connection[Any, Any]

Work = Callable[[int, Callable[[Any], None]], None]
"""What a process does: called with its place, 0 to the number at the same time, and a function that tells the parent
something. It has to pickle, and so has what it tells."""


@dataclass(frozen=True)
class Told:
    """Something that a piece of work told."""

    number: int
    what: Any


@dataclass(frozen=True)
class Ended:
    """A piece of work came to its end.

    Attributes:
        number: which.
        seconds: on the clock, from the start of the process on.
        failure: what was raised there, or how the process died; None if all went well.
        traceback: where it was raised.
    """

    number: int
    seconds: float
    failure: str | None = None
    traceback: str = ""


@dataclass(frozen=True, eq=False)
class _Child:
    number: int
    process: BaseProcess
    pipe: Pipe
    began: float

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


def side_by_side(work: Sequence[Work], *, at_once: int) -> Iterator[Told | Ended]:
    """Do `work`, `at_once` pieces at a time, begun in order; yield what is told as it comes.

    However this generator ends, it leaves no process behind.

    Args:
        work: the pieces.
        at_once: at least 1.
    """
    waiting = deque(enumerate(work))
    places: dict[int, _Child | None] = dict.fromkeys(range(at_once))
    try:
        while waiting or any(places.values()):
            for place, busy in places.items():
                if busy is None and waiting:
                    places[place] = _start(*waiting.popleft(), place)
            by_pipe = {child.pipe: place for place, child in places.items() if child}
            for ready in wait(list(by_pipe)):
                place = by_pipe[ready]  # type: ignore[index]  # only these pipes were waited for
                child = places[place]
                assert child is not None
                news = _received(child)
                if isinstance(news, Ended):
                    child.process.join()
                    child.pipe.close()
                    places[place] = None
                yield news
    finally:
        running = [child for child in places.values() if child]
        for child in running:
            child.process.terminate()
        for child in running:
            child.process.join()
            child.pipe.close()


def _start(number: int, work: Work, place: int) -> _Child:
    context, began = worker_context(), time.monotonic()
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, number, work, place), daemon=True)
    process.start()
    theirs.close()
    return _Child(number, process, ours, began)


def _received(child: _Child) -> Told | Ended:
    try:
        news: Told | Ended = child.pipe.recv()
        return replace(news, seconds=child.seconds) if isinstance(news, Ended) else news
    except (EOFError, ConnectionError):
        reason = "its process died; the operating system may have ended it for lack of memory: use fewer --jobs"
        return Ended(child.number, child.seconds, reason)


def _serve(pipe: Pipe, number: int, work: Work, place: int) -> None:
    """The life of a process: one piece of work."""
    threading.Thread(target=_leave_with_parent, args=(pipe,), daemon=True).start()
    keep_freed_memory()
    try:
        work(place, lambda what: pipe.send(Told(number, what)))
    except Exception as error:
        pipe.send(Ended(number, 0.0, str(error) or type(error).__name__, traceback.format_exc()))
    else:
        pipe.send(Ended(number, 0.0))


def _leave_with_parent(pipe: Pipe) -> None:
    """Wait for the end of the parent, which never sends anything, and leave at once."""
    try:
        pipe.recv()
    except (EOFError, OSError):
        os._exit(1)
