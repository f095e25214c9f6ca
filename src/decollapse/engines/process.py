"""Serial engines in processes of their own: the same bits on more cores.

The data set is in shared memory and never travels; the tensors of a message go through shared memory, too (`mailbox`).
A worker is told call and broadcast once a round, then one client after the other; whoever is free takes the largest of
the next few clients, so that nobody waits long for the last one and only a few results wait for their turn in the
cohort's order. While many clients wait, a worker has its next one before it is done with the last.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait

import torch
import torch.multiprocessing  # teaches the standard library to send shared tensors to a new process

from decollapse.core import Broadcast, ClientCall, ClientState, ModelState
from decollapse.engines import ClientError, DType, Engine, Federation, check_autocast, check_device
from decollapse.engines.mailbox import Mailbox
from decollapse.engines.serial import Serial
from decollapse.engines.worker import Failure, Reply, Worker
from decollapse.worker_server import worker_context

LOOK_AHEAD = 8
"""How far beyond the client whose result is due work may begin, in clients per worker: bounds the results in memory."""
SPARE = 1 << 18
"""Bytes in a mailbox beyond a model's own, for measurements and the like."""


@dataclass(frozen=True)
class Process:
    """`workers` clients at the same time, each in a process of its own with one thread.

    Attributes:
        workers: processes; None starts one for each core this process may use, and never more than there are clients.
        device: as in `Serial`; workers share it.
        dtype: as in `Serial`.
        channels_last: as in `Serial`.
        threads: a worker's threads; 1 gives the bits of the serial engine with one thread.
        compile: as in `Serial`, in each worker.
        autocast: as in `Serial`.
    """

    workers: int | None = None
    device: str = "cpu"
    dtype: DType = "float32"
    channels_last: bool = True
    threads: int = 1
    compile: bool = False
    autocast: bool = False

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"a process engine needs at least 1 worker, got {self.workers}.")
        check_device(self.device)
        check_autocast(self.dtype, self.autocast)
        if self.threads < 1:
            raise ValueError(f"threads is at least 1, got {self.threads}.")

    @contextmanager
    def __call__(self, federation: Federation) -> Iterator[Engine]:
        """The engine; its processes end with the block, however it ends."""
        cores = len(os.sched_getaffinity(0))
        count = min(self.workers or cores, len(federation.clients))
        if count * self.threads > cores:
            warnings.warn(
                f"{count * self.threads} threads of workers wait for one another on {cores} cores; "
                "engine.workers left out takes one for each core.",
                stacklevel=3,
            )
        settings = Serial(
            self.device, self.dtype, self.channels_last, self.threads, compile=self.compile, autocast=self.autocast
        )
        context = worker_context()
        federation.clients.share_memory()
        size = _num_bytes(federation) * (2 if self.dtype == "float64" else 1) + SPARE
        announcements = Mailbox(context, size)
        workers: list[Worker] = []
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)  # what the caller evaluates has the serial engine's bits, too
        try:
            workers.extend(Worker.start(context, settings, federation, announcements, size) for _ in range(count))
            yield ProcessEngine(workers, announcements, federation)
        finally:
            torch.set_num_threads(threads)
            for worker in workers:
                worker.pipe.close()  # the worker reads end-of-file and leaves
            for worker in workers:
                worker.process.join(timeout=0.5)
                if worker.process.is_alive():
                    worker.process.terminate()
                    worker.process.join()


class ProcessEngine:
    """A started `Process`."""

    def __init__(self, workers: list[Worker], announcements: Mailbox, federation: Federation) -> None:
        self._workers = workers
        self._announcements = announcements
        self._clients = federation.clients

    def run(
        self, call: ClientCall, broadcast: Broadcast, cohort: Sequence[int], states: Mapping[int, ClientState]
    ) -> Iterator[Reply]:
        """See `Engine.run`.

        Raises:
            WorkerDiedError: a worker was killed; names the client it was working on.
        """
        for worker in self._workers:
            worker.finish()  # a round that its caller gave up left clients in work, whose failures are that round's
        announcement = self._announcements.pack((call, broadcast))
        untold = set(self._workers)  # told with their first client, so that everyone told has read it when it changes
        sizes = {client: self._clients.num_examples(client) for client in cohort}
        waiting, done = set(cohort), dict[int, Reply]()
        for position, due in enumerate(cohort):
            reach = cohort[position : position + LOOK_AHEAD * len(self._workers)]
            near = sorted((client for client in reach if client in waiting), key=sizes.__getitem__)
            while due not in done:
                for worker in self._idle_first(len(waiting)):
                    if not near:
                        break
                    if worker in untold:
                        worker.announce(announcement, broadcast.round)
                        untold.remove(worker)
                    if worker.take(near[-1], states.get(near[-1], {})):
                        waiting.discard(near.pop())
                for worker in self._with_news():
                    client, reply = worker.receive()
                    done[client] = _successful(reply)
            yield done.pop(due)

    def _idle_first(self, num_waiting: int) -> list[Worker]:
        """Who may be given a client: the idle, and while enough are left for all, those with one in work."""
        idle = [worker for worker in self._workers if not worker.clients]
        if num_waiting < len(idle) + len(self._workers):
            return idle
        return idle + [worker for worker in self._workers if len(worker.clients) == 1]

    def _with_news(self) -> list[Worker]:
        ready = wait([worker.pipe for worker in self._workers if worker.clients])
        return [worker for worker in self._workers if worker.pipe in ready]


def _num_bytes(federation: Federation) -> int:
    """Of the model's parameters and buffers, with what alignment adds."""
    with torch.random.fork_rng(devices=[]):
        model = ModelState.inside(federation.build_model())
    return sum(leaf.nbytes + 64 for leaf in (*model.params.values(), *model.buffers.values()))


def _successful(reply: Reply | Failure) -> Reply:
    """The reply, or the worker's error, raised here with its traceback as a note."""
    if isinstance(reply, Failure):
        failure = ClientError(reply.message)
        failure.add_note(reply.traceback)
        raise failure
    return reply
