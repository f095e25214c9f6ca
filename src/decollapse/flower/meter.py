"""The bytes that go over a grid, counted where messages are sent and come in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import ConfigRecord, RecordDict

from decollapse.core import Broadcast, ClientCall, ClientResult, ClientState
from decollapse.engines import Engine
from decollapse.engines.traffic import Traffic


@dataclass(eq=False)
class Meter:
    """What was sent so far, retries and late answers included.

    Attributes:
        traffic: the sum.
    """

    traffic: Traffic = Traffic()

    def sent(self, content: RecordDict) -> None:
        """Count a message to a client."""
        self.traffic += Traffic(to_clients=num_bytes(content))

    def came(self, content: RecordDict) -> None:
        """Count a message from a client."""
        self.traffic += Traffic(from_clients=num_bytes(content))


@dataclass(frozen=True, eq=False)
class Metered:
    """An engine around an engine whose messages a meter counts.

    Attributes:
        engine: where the clients run.
        meter: of its messages.
    """

    engine: Engine
    meter: Meter

    @property
    def traffic(self) -> Traffic:
        """See `RemoteEngine.traffic`."""
        return self.meter.traffic

    def run(
        self, call: ClientCall, broadcast: Broadcast, cohort: Sequence[int], states: Mapping[int, ClientState]
    ) -> Iterator[tuple[ClientResult, ClientState]]:
        """See `Engine.run`."""
        return self.engine.run(call, broadcast, cohort, states)


def num_bytes(content: RecordDict) -> int:
    """Of tensors with their names, and of texts and numbers.

    >>> num_bytes(RecordDict({"about": ConfigRecord({"json": "{}", "round": 3})}))
    10
    """
    return sum(
        sum(map(_of_value, record.values())) if isinstance(record, ConfigRecord) else record.count_bytes()
        for record in content.values()
    )


def _of_value(value: object) -> int:
    return len(value) if isinstance(value, str | bytes) else 8 * (len(value) if isinstance(value, list) else 1)
