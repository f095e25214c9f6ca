"""Every client is found on its node, and a federation that does not fit together is told so in one sentence."""

from __future__ import annotations

import pytest

pytest.importorskip("flwr")

from flwr.app import Message
from loopback import Loopback, faithful

from decollapse.flower import make_client_app
from decollapse.flower.roster import FederationError, Roster


def grid(num_nodes: int = 3, **settings: object) -> Loopback:
    return Loopback(make_client_app(), [faithful] * num_nodes, **settings)


def test_clients_are_partitions_whatever_their_nodes_are_called() -> None:
    roster = Roster(grid(node_ids=[7, 900, 3]))
    assert roster.everyone(wait=1) == 3
    assert roster.nodes([2, 0], wait=0) == {0: 7, 2: 3}


def test_each_node_is_asked_once() -> None:
    asked: list[int] = []

    def noting(message: Message, handle: object) -> Message:
        asked.append(message.metadata.dst_node_id)
        return handle(message)

    roster = Roster(Loopback(make_client_app(), [noting] * 3))
    for _ in range(3):
        roster.everyone(wait=1)
        roster.nodes([0, 1, 2], wait=1)
    assert sorted(asked) == [86, 93, 100]


def test_missing_partitions_are_named() -> None:
    there = grid(2, num_partitions=4)
    with pytest.raises(FederationError, match=r"of 4 partitions 2 have a node.*partition-id 2, 3,"):
        Roster(there).everyone(wait=0.1)


def test_an_empty_federation_says_what_to_start() -> None:
    with pytest.raises(FederationError, match="no node has said its partition.*start the SuperNodes"):
        Roster(grid(0)).everyone(wait=0.1)


def test_two_nodes_of_one_partition_are_named() -> None:
    app = make_client_app()
    twins = Loopback(app, [faithful, lambda message, handle: twins._handle(message, 0, 93)])
    with pytest.raises(FederationError, match="nodes 93 and 100 both have partition-id=0"):
        Roster(twins).everyone(wait=1)


@pytest.mark.parametrize("num_partitions", [1, -1])
def test_a_partition_that_cannot_be_is_refused(num_partitions: int) -> None:
    with pytest.raises(FederationError, match=f"num-partitions={num_partitions}"):
        Roster(grid(2, num_partitions=num_partitions)).everyone(wait=1)


def test_a_client_whose_node_left_is_not_there_any_more() -> None:
    there = grid(2)
    roster = Roster(there)
    roster.everyone(wait=1)
    there.node_ids[0] = 555
    assert roster.nodes([0, 1], wait=1) == {0: 555, 1: 93}
