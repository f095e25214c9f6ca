"""The tasks of one round that are out, and their answers as they come."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from flwr.app import Message, MessageType

from decollapse.core import ClientResult, ClientState
from decollapse.flower.messages import MessageError, Task, decode_result, encode_task
from decollapse.flower.roster import POLL, Roster

Answer = tuple[ClientResult, ClientState]
CHECK = 2.0
"""Seconds between two looks at which nodes are there."""


@dataclass(frozen=True)
class Sent:
    """A task that may yet be answered: whose, where, and since when the node is there."""

    client: int
    node: int
    life: str


@dataclass(eq=False)
class Inbox:
    """What was sent in a round, what came back, and of whom nothing did.

    A late answer to an earlier attempt is as good as one to the last: both are a function of the task.
    """

    roster: Roster
    answers: dict[int, Answer] = field(default_factory=dict)
    answered: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    failures: dict[int, str] = field(default_factory=dict)
    _nodes: dict[int, int] = field(default_factory=dict)
    _sent: dict[str, Sent] = field(default_factory=dict)
    _checked: float = field(default_factory=time.monotonic)

    def send(self, task: Task, node: int, life: str, *, ttl: float) -> None:
        """Ask the node of one client, which is there since `life`."""
        message = Message(encode_task(task), node, MessageType.TRAIN, ttl=ttl, group_id=str(task.broadcast.round))
        self._nodes[task.client] = node
        ids = list(self.roster.grid.push_messages([message]))
        self.failures[task.client] = f"node {node} did not answer in time"
        if not ids or not ids[0]:
            self.failures[task.client] = f"node {node} cannot be reached"
            return
        self._sent[ids[0]] = Sent(task.client, node, life)

    def note_absent(self, clients: set[int]) -> None:
        """No node came for these."""
        for client in clients:
            node = self._nodes.get(client)
            self.failures[client] = "its node is not there" if node is None else f"its node {node} is gone"

    def asked(self, cohort: Sequence[int]) -> bool:
        """Whether an answer may still come."""
        return len(self.answered) < len(cohort) and bool(self._sent)

    def look(self) -> None:
        """Take what came, or wait a little."""
        replies = list(self.roster.grid.pull_messages(list(self._sent)))
        for reply in replies:
            sent = self._sent.pop(reply.metadata.reply_to_message_id)
            if sent.client not in self.answered:
                self._take(sent.client, sent.node, reply)
        if not replies:
            time.sleep(POLL)
            self._forget_the_dead()

    def _forget_the_dead(self) -> None:
        """Wait no longer for a node that is gone or was started anew."""
        if time.monotonic() < self._checked + CHECK:
            return
        self._checked = time.monotonic()
        lives = self.roster.lives()
        for message, sent in list(self._sent.items()):
            if lives.get(sent.node) != sent.life:
                del self._sent[message]
                self.failures[sent.client] = f"node {sent.node} was stopped"

    def _take(self, client: int, node: int, reply: Message) -> None:
        if reply.has_error():
            error = reply.error
            lines = (error.reason or "").strip().splitlines() or [f"error {error.code}"]
            self.failures[client] = f"node {node} failed ({lines[-1].strip().rstrip('.')})"
            return
        self.answered.add(client)
        try:
            result, state = decode_result(reply.content, client)
        except MessageError as error:
            result, state = ClientResult.failed(client, f"node {node} sent no result: {error}"), {}
        if result.failure is None:
            self.failures.pop(client, None)
        else:
            self.refused.add(client)
            self.failures[client] = result.failure.rstrip(".")
        self.answers[client] = (result, state)
