"""A grid in this process: messages are turned into Flower's wire format and back, and handled when they are pulled."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest

pytest.importorskip("flwr")

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto, recorddict_from_proto, recorddict_to_proto
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

Fate = Callable[[Message, Callable[[Message], Message]], Message | None]
"""What a node makes of a message: given it and the client app, an answer, or none at all."""


def faithful(message: Message, handle: Callable[[Message], Message]) -> Message | None:
    return handle(message)


def silent(message: Message, handle: Callable[[Message], Message]) -> Message | None:
    return None if is_task(message) else handle(message)


def on_train(answer: Callable[[Message, Callable[[Message], Message]], Message | None]) -> Fate:
    """A node that says who it is, and answers every task like this."""
    return lambda message, handle: answer(message, handle) if is_task(message) else handle(message)


def is_task(message: Message) -> bool:
    return message.metadata.message_type.partition(".")[0] == "train"


def over_the_wire(message: Message) -> Message:
    return message_from_proto(message_to_proto(message))


def content_over_the_wire(content: RecordDict) -> RecordDict:
    return recorddict_from_proto(recorddict_to_proto(content))


@dataclass
class Loopback(Grid):
    """Nodes 100, 93, 86, … hold the partitions 0, 1, 2, …; each has a fate. Every reply is kept in `replies`."""

    app: ClientApp
    fates: list[Fate]
    node_ids: list[int] = field(default_factory=list)
    num_partitions: int | None = None
    trained: list[int] = field(default_factory=list)
    node_config: dict[str, str] = field(default_factory=dict)
    replies: list[Message] = field(default_factory=list)
    _waiting: dict[str, Message] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        self.node_ids = self.node_ids or [100 - 7 * client for client in range(len(self.fates))]

    def set_run(self, run: object) -> None: ...

    @property
    def run(self) -> object:
        return None

    def create_message(self, *args: object, **kwargs: object) -> Message:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return sorted(self.node_ids)  # not the order of the partitions

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            number = str(next(self._numbers))
            message.metadata.__dict__["_message_id"] = number
            self._waiting[number] = over_the_wire(message)
            ids.append(number)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = []
        for number in sorted(message_ids, reverse=True):  # the last one asked answers first
            if number not in self._waiting:
                continue
            message = self._waiting[number]
            node = message.metadata.dst_node_id
            if node not in self.node_ids:
                continue
            client = self.node_ids.index(node)
            reply = self.fates[client](
                message, lambda asked, client=client, node=node: self._handle(asked, client, node)
            )
            if reply is not None:
                del self._waiting[number]
                replies.append(over_the_wire(reply))
        self.replies += replies
        return replies

    def _handle(self, message: Message, client: int, node: int) -> Message:
        count = self.num_partitions or len(self.fates)
        place = {"partition-id": client, "num-partitions": count}
        context = Context(1, node, place | self.node_config, RecordDict(), {})
        if is_task(message):
            self.trained.append(client)
        try:
            return self.app(message, context)
        except Exception as error:
            return Message(Error(2, f"Traceback\n{type(error).__name__}: {error}"), reply_to=message)
