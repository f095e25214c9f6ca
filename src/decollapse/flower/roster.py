"""Which node is which client.

Flower numbers nodes at random, anew in every run; a client of ours is a partition, which its node is started with. So
each node is asked once, and asked again are only nodes that were not there before: a node that was killed and started
again finds its place.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flwr.app import ConfigRecord, Message, MessageType, RecordDict

from decollapse.engines import ClientError
from decollapse.flower.messages import WHO
from decollapse.flower.meter import Meter

if TYPE_CHECKING:
    from flwr.serverapp import Grid

POLL = 0.2
"""Seconds between two looks at what came."""


class FederationError(ClientError):
    """Too few clients answered, or nodes and recipe do not fit together."""


@dataclass(eq=False)
class Roster:
    """The nodes of a federation by client.

    Attributes:
        grid: to the nodes.
        num_clients: of the federation; None until the nodes said so.
        meter: counts what clients are asked and answer.
    """

    grid: Grid
    num_clients: int | None = None
    meter: Meter = field(default_factory=Meter)
    _clients: dict[int, int] = field(default_factory=dict)
    _asked: dict[str, int] = field(default_factory=dict)
    _complaints: dict[int, str] = field(default_factory=dict)

    def nodes(self, clients: Collection[int], *, wait: float) -> dict[int, int]:
        """The node of each of `clients` that is there, at the latest after `wait` seconds.

        Raises:
            FederationError: two nodes hold one partition, or a node has another number of partitions.
        """
        found = self._wait(lambda there: set(clients) <= there.keys(), wait)
        return {client: found[client] for client in sorted(clients) if client in found}

    def everyone(self, *, wait: float) -> int:
        """The number of clients, when all their nodes are there.

        Raises:
            FederationError: some are not, after `wait` seconds; names their partitions. Or as `nodes`.
        """
        found = self._wait(lambda there: len(there) == self.num_clients, wait)
        if self.num_clients is None or len(found) < self.num_clients:
            raise FederationError(self._absence(found, wait))
        return self.num_clients

    def lives(self) -> dict[int, str]:
        """For each node that is there, since when: one that was started anew has forgotten what it was asked."""
        return {node.node_id: node.last_activated_at for node in self.grid.get_nodes()}

    def _wait(self, complete: Callable[[dict[int, int]], bool], wait: float) -> dict[int, int]:
        """The node of each client, when these are complete or `wait` seconds have passed."""
        self._complaints.clear()
        deadline = time.monotonic() + wait
        while not complete(found := self._present()) and time.monotonic() < deadline:
            time.sleep(POLL)
        return found

    def _present(self) -> dict[int, int]:
        """The node of each client that is there now, as far as they have said who they are."""
        there = set(self.grid.get_node_ids())
        self._clients = {node: client for node, client in self._clients.items() if node in there}
        self._asked = {message: node for message, node in self._asked.items() if node in there}
        strangers = sorted(there - {*self._clients, *self._asked.values(), *self._complaints})
        messages = [Message(RecordDict(), node, MessageType.QUERY) for node in strangers]
        self._asked |= dict(zip(self.grid.push_messages(messages), strangers, strict=True)) if messages else {}
        for reply in self.grid.pull_messages(list(self._asked)) if self._asked else ():
            self._enter(self._asked.pop(reply.metadata.reply_to_message_id), reply)
        nodes: dict[int, int] = {}
        for node, client in sorted(self._clients.items()):
            if client in nodes:
                raise FederationError(
                    f"nodes {nodes[client]} and {node} both have partition-id={client}; each needs one of its own."
                )
            nodes[client] = node
        return nodes

    def _enter(self, node: int, reply: Message) -> None:
        who = None if reply.has_error() else reply.content.get(WHO)
        if not isinstance(who, ConfigRecord):
            reason = (reply.error.reason or "an error").strip() if reply.has_error() else "something else"
            self._complaints[node] = f"answered {reason.splitlines()[-1]!r}"
            return
        client, count = who["partition-id"], who["num-partitions"]
        self.num_clients = self.num_clients or count
        if count != self.num_clients or client not in range(count):
            raise FederationError(
                f"node {node} has partition-id={client} num-partitions={count}, but the federation has "
                f"{self.num_clients} clients; start SuperNodes with one num-partitions and a partition-id below."
            )
        self._clients[node] = client

    def _absence(self, found: dict[int, int], wait: float) -> str:
        said = "".join(f" Node {node} {reason}." for node, reason in self._complaints.items())
        if self.num_clients is None:
            return f"no node has said its partition in {wait:.0f} s; start the SuperNodes, or raise `wait`.{said}"
        missing = ", ".join(str(client) for client in range(self.num_clients) if client not in found)
        return (
            f"of {self.num_clients} partitions {len(found)} have a node after {wait:.0f} s; start the SuperNodes with "
            f"partition-id {missing}, or raise `wait`.{said}"
        )
