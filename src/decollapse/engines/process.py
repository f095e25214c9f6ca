"""Serial engines in processes of their own, behind pipes: the same bits on more cores.

The data set is in shared memory and never travels. A worker is told call and broadcast once a round, then one client
at a time; whoever is free takes the largest of the next few clients, so that nobody waits long for the last one and
only a few results wait for their turn in the cohort's order.
"""

from __future__ import annotations

import io
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, multiprocessing

from decollapse.core import Broadcast, ClientCall, ClientResult, ClientState
from decollapse.engines import ClientError, DType, Engine, Federation, check_device
from decollapse.engines.serial import Serial, SerialEngine

if TYPE_CHECKING:
    Pipe = Connection[Any, Any]

Reply = tuple[ClientResult, ClientState]
LOOK_AHEAD = 8
"""How far beyond the client whose result is due work may begin, in clients per worker: bounds the results in memory."""


class WorkerDiedError(RuntimeError):
    """A worker process ended in the middle of a round."""


@dataclass(frozen=True)
class Process:
    """`workers` clients at the same time, each in a process of its own with one thread.

    Attributes:
        workers: processes; None starts one for each core this process may use, and never more than there are clients.
        device: as in `Serial`; workers share it.
        dtype: as in `Serial`.
        channels_last: as in `Serial`.
        threads: a worker's threads; 1 gives the bits of the serial engine with one thread.
    """

    workers: int | None = None
    device: str = "cpu"
    dtype: DType = "float32"
    channels_last: bool = True
    threads: int = 1

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"a process engine needs at least 1 worker, got {self.workers}.")
        check_device(self.device)
        if self.threads < 1:
            raise ValueError(f"threads is at least 1, got {self.threads}.")

    @contextmanager
    def __call__(self, federation: Federation) -> Iterator[Engine]:
        """The engine; its processes end with the block, however it ends."""
        workers = min(self.workers or len(os.sched_getaffinity(0)), len(federation.clients))
        settings = Serial(self.device, self.dtype, self.channels_last, self.threads)
        federation.clients.share_memory()
        context = multiprocessing.get_context("spawn")
        pipes: list[Pipe] = []
        processes: list[BaseProcess] = []
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)  # what the caller evaluates has the serial engine's bits, too
        try:
            for _ in range(workers):
                ours, theirs = context.Pipe()
                process: BaseProcess = context.Process(target=_serve, args=(theirs, settings, federation), daemon=True)
                with _ctrl_c_ignored():
                    process.start()
                theirs.close()
                pipes.append(ours)
                processes.append(process)
            yield ProcessEngine(pipes, federation)
        finally:
            torch.set_num_threads(threads)
            for pipe in pipes:
                pipe.close()  # the worker reads end-of-file and leaves
            for process in processes:
                process.join(timeout=0.5)
                if process.is_alive():
                    process.terminate()
                    process.join()


class ProcessEngine:
    """A started `Process`: the parent's ends of the pipes."""

    def __init__(self, pipes: list[Pipe], federation: Federation) -> None:
        self._pipes = pipes
        self._clients = federation.clients
        self._working: dict[Pipe, int] = {}

    def run(
        self, call: ClientCall, broadcast: Broadcast, cohort: Sequence[int], states: Mapping[int, ClientState]
    ) -> Iterator[Reply]:
        """See `Engine.run`.

        Raises:
            WorkerDiedError: a worker was killed; names the client it was working on.
        """
        for pipe in list(self._working):  # a round that its caller gave up left these clients in work
            self._receive(pipe, broadcast.round)  # a failure among them is that round's, not this one's
        announcement = _dumps((call, broadcast))
        for pipe in self._pipes:
            _send(pipe, announcement, f"before round {broadcast.round}")
        reach = LOOK_AHEAD * len(self._pipes)
        waiting = set(cohort)
        done: dict[int, Reply] = {}
        for position, due in enumerate(cohort):
            near = [client for client in cohort[position : position + reach] if client in waiting]
            near.sort(key=self._clients.num_examples)
            while due not in done:
                for pipe in self._pipes:
                    if pipe not in self._working and near:
                        client = near.pop()
                        waiting.discard(client)
                        self._working[pipe] = client
                        _send(pipe, _dumps((client, states.get(client, {}))), f"before client {client}")
                for pipe in self._pipes_with_news():
                    client, reply = self._receive(pipe, broadcast.round)
                    done[client] = _successful(reply)
            yield done.pop(due)

    def _pipes_with_news(self) -> list[Pipe]:
        ready = wait(list(self._working))
        return [pipe for pipe in self._working if pipe in ready]

    def _receive(self, pipe: Pipe, round: int) -> tuple[int, Reply | _Failure]:
        """The client that a worker is done with, and its reply."""
        client = self._working.pop(pipe)
        try:
            return client, pickle.loads(pipe.recv_bytes())
        except (EOFError, ConnectionError) as error:
            raise WorkerDiedError(_epitaph(f"while it trained client {client} in round {round}")) from error


@dataclass(frozen=True)
class _Failure:
    """What a worker sends instead of a result."""

    message: str
    traceback: str


def _successful(reply: Reply | _Failure) -> Reply:
    """The reply, or the worker's error, raised here with its traceback as a note."""
    if isinstance(reply, _Failure):
        failure = ClientError(reply.message)
        failure.add_note(reply.traceback)
        raise failure
    return reply


def _serve(pipe: Pipe, settings: Serial, federation: Federation) -> None:
    """A worker's life: announcements and clients in, replies out, until the pipe is closed."""
    with settings(federation) as engine:
        assert isinstance(engine, SerialEngine)
        call: ClientCall | None = None
        broadcast: Broadcast | None = None
        while True:
            try:
                message = pickle.loads(pipe.recv_bytes())
            except (EOFError, ConnectionError):
                return
            if isinstance(message[1], Broadcast):
                call, broadcast = message
                continue
            assert call is not None
            assert broadcast is not None
            client, state = message
            try:
                reply: Reply | _Failure = engine.run_one(call, broadcast, client, state)
            except ClientError as error:
                reply = _Failure(str(error), traceback.format_exc())
            try:
                pipe.send_bytes(_dumps(reply))
            except ConnectionError:
                return


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


def _send(pipe: Pipe, message: bytes, when: str) -> None:
    try:
        pipe.send_bytes(message)
    except ConnectionError as error:
        raise WorkerDiedError(_epitaph(when)) from error


def _epitaph(when: str) -> str:
    return (
        f"A worker process died {when}; the operating system may have ended it for lack of memory: use fewer workers. "
        "What was saved can be resumed. If this is a script of your own, its code has to stand under "
        "`if __name__ == '__main__':`, because workers import it."
    )


class _Pickler(pickle.Pickler):
    """Pickles tensors as arrays: 50 times faster than one torch.save for each, and bitwise the same."""

    def reducer_override(self, obj: object) -> Any:
        if isinstance(obj, Tensor) and obj.device.type == "cpu" and obj.dtype != torch.bfloat16:
            return torch.from_numpy, (obj.detach().numpy(),)
        return NotImplemented


def _dumps(message: object) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(message)
    return buffer.getvalue()
