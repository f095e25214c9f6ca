"""Ways to the clients of a secure sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from decollapse.core import Broadcast, ClientCall, ClientResult, ClientState
from decollapse.engines import ClientError, Engine
from decollapse.secure.encoding import OutOfRangeError
from decollapse.secure.keys import SealBrokenError
from decollapse.secure.messages import ProtocolError
from decollapse.secure.participant import Memory, Refusal, Reply, Request, answer


class Reach(Protocol):
    """Carries requests to clients, which remember what they must between two of them."""

    def ask(self, requests: Mapping[int, Request]) -> Mapping[int, Reply]:
        """The replies, by client; without those that did not come."""
        ...


@dataclass(eq=False)
class InProcess:
    """Clients in this process, each with a memory of its own. For trying out, and for tests.

    Attributes:
        engine: where they train.
        memories: what each remembers.
    """

    engine: Engine
    memories: dict[int, Memory] = field(default_factory=dict)

    def ask(self, requests: Mapping[int, Request]) -> Mapping[int, Reply]:
        """One client after the other."""
        return {client: self._answer(request, client) for client, request in requests.items()}

    def _answer(self, request: Request, client: int) -> Reply:
        try:
            reply, memory = answer(request, client, self.memories.get(client, Memory()), self._train)
        except (ClientError, ProtocolError, OutOfRangeError, SealBrokenError) as error:
            return Refusal(str(error))
        self.memories[client] = memory
        return reply

    def _train(
        self, call: ClientCall, broadcast: Broadcast, client: int, state: ClientState
    ) -> tuple[ClientResult, ClientState]:
        ((result, following),) = self.engine.run(call, broadcast, [client], {client: state})
        return result, following
