"""One worker of the process engine: the parent's end, and the life of the process at the other end."""

from __future__ import annotations

import traceback
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from decollapse.core import Broadcast, ClientCall, ClientResult, ClientState
from decollapse.engines import ClientError, Federation
from decollapse.engines.mailbox import Mailbox
from decollapse.engines.memory import keep_freed_memory
from decollapse.engines.serial import Serial, SerialEngine

if TYPE_CHECKING:
    Pipe = Connection[Any, Any]

Reply = tuple[ClientResult, ClientState]
SMALL = 1 << 15
"""Bytes that fit into a pipe while nobody reads: a larger message to a worker at work could wait for it for ever."""
ANNOUNCEMENT, CLIENT = b"a", b"c"
"""First byte of a message, for what follows."""


class WorkerDiedError(RuntimeError):
    """A worker process ended in the middle of a round."""


@dataclass(eq=False)
class Worker:
    """The parent's end of a worker.

    Attributes:
        process: it.
        pipe: to it.
        boxes: two, used in turn, so that the next client can be there while the last is in work. The state of a client
            comes in the box that its result leaves in.
        clients: in work, the first one first; at most as many as boxes.
        taken: clients so far.
        returned: those of them that are done.
        round: of the last announcement.
    """

    process: BaseProcess
    pipe: Pipe
    boxes: tuple[Mailbox, Mailbox]
    clients: deque[int] = field(default_factory=deque)
    taken: int = 0
    returned: int = 0
    round: int = 0

    @classmethod
    def start(
        cls, context: ForkServerContext, settings: Serial, federation: Federation, announcements: Mailbox, size: int
    ) -> Worker:
        """Fork one from the server; it builds its model while others are started."""
        ours, theirs = context.Pipe()
        boxes = Mailbox(context, size), Mailbox(context, size)
        process = context.Process(target=serve, args=(theirs, announcements, boxes, settings, federation), daemon=True)
        process.start()
        theirs.close()
        return cls(process, ours, boxes)

    def announce(self, announcement: bytes, round: int) -> None:
        """Tell the worker, which is idle, call and broadcast of its next clients."""
        self.round = round
        self._send(ANNOUNCEMENT, announcement)

    def take(self, client: int, state: ClientState) -> bool:
        """Give the worker a client, unless it is at work and the message would have to wait for it."""
        message = self.boxes[self.taken % 2].pack((client, state))
        if self.clients and len(message) > SMALL:
            return False
        self.clients.append(client)
        self.taken += 1
        self._send(CLIENT, message)
        return True

    def receive(self) -> tuple[int, Reply | Failure]:
        """The client that the worker is done with, and its reply."""
        try:
            reply: Reply | Failure = self.boxes[self.returned % 2].unpack(self.pipe.recv_bytes())
        except (EOFError, ConnectionError) as error:
            raise self._death() from error
        self.returned += 1
        return self.clients.popleft(), reply

    def finish(self) -> None:
        """Wait for all clients in work, and forget their results."""
        while self.clients:
            self.receive()

    def _send(self, kind: bytes, message: bytes) -> None:
        try:
            self.pipe.send_bytes(kind + message)
        except ConnectionError as error:
            raise self._death() from error

    def _death(self) -> WorkerDiedError:
        client = f"while it trained client {self.clients[0]}" if self.clients else "before its first client"
        return WorkerDiedError(
            f"A worker process died {client} in round {self.round}; the operating system may have ended it for lack of "
            "memory: use fewer workers. What was saved can be resumed. If this is a script of your own, its code has "
            "to stand under `if __name__ == '__main__':`, because workers import it."
        )


@dataclass(frozen=True)
class Failure:
    """What a worker sends instead of a result."""

    message: str
    traceback: str


def serve(
    pipe: Pipe, announcements: Mailbox, boxes: tuple[Mailbox, Mailbox], settings: Serial, federation: Federation
) -> None:
    """A worker's life: announcements and clients in, replies out, until the pipe is closed."""
    keep_freed_memory()
    with settings(federation) as engine:
        assert isinstance(engine, SerialEngine)
        call: ClientCall | None = None
        broadcast: Broadcast | None = None
        returned = 0
        while True:
            try:
                message = pipe.recv_bytes()
            except (EOFError, ConnectionError):
                return
            if message[:1] == ANNOUNCEMENT:
                call, broadcast = announcements.unpack(message[1:])
                continue
            assert call is not None
            assert broadcast is not None
            box = boxes[returned % 2]
            client, state = box.unpack(message[1:])
            try:
                reply: Reply | Failure = engine.run_one(call, broadcast, client, state)
            except ClientError as error:
                reply = Failure(str(error), traceback.format_exc())
            try:
                pipe.send_bytes(box.pack(reply))
            except ConnectionError:
                return
            returned += 1
