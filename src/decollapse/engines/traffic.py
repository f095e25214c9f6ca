"""What a federation sends: bytes, counted by engines whose clients are elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from decollapse.engines import Engine


@dataclass(frozen=True)
class Traffic:
    """Bytes of messages' contents, over all clients; what the transport adds to them is not counted.

    Attributes:
        to_clients: models, and what goes with them.
        from_clients: updates, and what was measured.
    """

    to_clients: int = 0
    from_clients: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        """Both together.

        >>> Traffic(1, 2) + Traffic(30, 40)
        Traffic(to_clients=31, from_clients=42)
        """
        return Traffic(self.to_clients + other.to_clients, self.from_clients + other.from_clients)

    def __sub__(self, before: Traffic) -> Traffic:
        """What was sent since `before`."""
        return Traffic(self.to_clients - before.to_clients, self.from_clients - before.from_clients)


@runtime_checkable
class RemoteEngine(Protocol):
    """An engine whose clients are reached by messages."""

    @property
    def traffic(self) -> Traffic:
        """All that was sent so far."""
        ...


def traffic_of(engine: Engine) -> Traffic | None:
    """What an engine has sent so far; None of one that sends nothing."""
    return engine.traffic if isinstance(engine, RemoteEngine) else None
