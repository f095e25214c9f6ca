"""What a cohort is asked in one round or phase, and the answers as they come.

for each attempt:   ask the nodes of all clients that have not answered; wait until `deadline`
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from flwr.app import Message, RecordDict

from decollapse.flower.roster import POLL, Roster

CHECK = 2.0
"""Seconds between two looks at which nodes are there."""
SOON = 0.01
"""Seconds between the first looks at what came; `POLL` between later ones."""
DAY = 24 * 3600.0


@dataclass(frozen=True)
class Patience:
    """How long, and for how many, a round waits.

    Attributes:
        deadline: seconds for the answers to one attempt, > 0.
        retries: further attempts, in which only those who have not answered are asked again, >= 0.
        min_results: answers without which there is no round; 0 for those of the whole cohort, and under secure
            aggregation for the protocol's own threshold.
        wait: seconds for nodes to come, at the start and before an attempt, >= 0.
    """

    deadline: float = 3600.0
    retries: int = 2
    min_results: int = 0
    wait: float = 120.0

    def __post_init__(self) -> None:
        if self.deadline <= 0 or self.wait < 0 or self.retries < 0 or self.min_results < 0:
            raise ValueError(f"deadline is positive; retries, min_results and wait are at least 0; got {self}.")


@dataclass(frozen=True)
class Sent:
    """A message that may yet be answered: whose, where, and since when the node is there."""

    client: int
    node: int
    life: str


@dataclass(frozen=True, eq=False)
class Answer:
    """What came back from the node of one client."""

    client: int
    node: int
    content: RecordDict


@dataclass(eq=False)
class Inbox:
    """What was sent to a cohort, and of whom nothing came back.

    A late answer to an earlier attempt is as good as one to the last: both are a function of what was asked.

    Attributes:
        roster: which node is which client.
        patience: how long to wait.
        failures: why, for each client that has not answered.
    """

    roster: Roster
    patience: Patience
    failures: dict[int, str] = field(default_factory=dict)
    _nodes: dict[int, int] = field(default_factory=dict)
    _sent: dict[str, Sent] = field(default_factory=dict)
    _asked: float = field(default_factory=time.monotonic)
    _checked: float = field(default_factory=time.monotonic)

    def gather(
        self, cohort: Sequence[int], content: Callable[[int], RecordDict], *, kind: str, group: str
    ) -> Iterator[Answer]:
        """The answers of a cohort in the order in which they come, one of each client at the most.

        Args:
            cohort: whom to ask.
            content: what a client is asked.
            kind: Flower's name for the function of the client app.
            group: Flower's name for messages that belong together.
        """
        unanswered = set(cohort)
        for _ in range(1 + self.patience.retries):
            nodes = self.roster.nodes(unanswered, wait=self.patience.wait)
            self._note_absent(unanswered - nodes.keys())
            lives = self.roster.lives()
            for client, node in nodes.items():
                ttl = max(DAY, 2 * self.patience.deadline)
                self._send(Message(content(client), node, kind, ttl=ttl, group_id=group), client, lives.get(node, ""))
            deadline = time.monotonic() + self.patience.deadline
            while unanswered and self._sent and time.monotonic() < deadline:
                for answer in self._look():
                    if answer.client in unanswered:
                        unanswered.remove(answer.client)
                        self.failures.pop(answer.client, None)
                        yield answer
            if not unanswered:
                return

    def _send(self, message: Message, client: int, life: str) -> None:
        """Ask the node of one client, which is there since `life`."""
        node = message.metadata.dst_node_id
        self._nodes[client] = node
        ids = list(self.roster.grid.push_messages([message]))
        self.failures[client] = f"node {node} did not answer in time"
        if not ids or not ids[0]:
            self.failures[client] = f"node {node} cannot be reached"
            return
        self._sent[ids[0]] = Sent(client, node, life)
        self._asked = time.monotonic()
        self.roster.meter.sent(message.content)

    def _note_absent(self, clients: set[int]) -> None:
        """No node came for these."""
        for client in clients:
            node = self._nodes.get(client)
            self.failures[client] = "its node is not there" if node is None else f"its node {node} is gone"

    def _look(self) -> list[Answer]:
        """What came; where nothing did, wait a little."""
        replies = list(self.roster.grid.pull_messages(list(self._sent)))
        if not replies:
            time.sleep(min(POLL, max(SOON, 0.03 * (time.monotonic() - self._asked))))  # short rounds stay short
            self._forget_the_dead()
        answers = []
        for reply in replies:
            sent = self._sent.pop(reply.metadata.reply_to_message_id)
            if not reply.has_error():
                self.roster.meter.came(reply.content)
                answers.append(Answer(sent.client, sent.node, reply.content))
            elif sent.client in self.failures:  # which an answer takes away
                lines = (reply.error.reason or "").strip().splitlines() or [f"error {reply.error.code}"]
                self.failures[sent.client] = f"node {sent.node} failed ({lines[-1].strip().rstrip('.')})"
        return answers

    def _forget_the_dead(self) -> None:
        """Wait no longer for a node that is gone or was started anew."""
        if time.monotonic() < self._checked + CHECK:
            return
        self._checked = time.monotonic()
        lives = self.roster.lives()
        for message, sent in list(self._sent.items()):
            if lives.get(sent.node) != sent.life:
                del self._sent[message]
                if sent.client in self.failures:
                    self.failures[sent.client] = f"node {sent.node} was stopped"
