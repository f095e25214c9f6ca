"""A client's part in a secure sum: a phase in, an answer out, and in between a file that remembers."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from flwr.app import RecordDict

from decollapse.engines import ClientError
from decollapse.flower.client import run_call
from decollapse.flower.data import DataOfApp
from decollapse.flower.memory import MemoryFile, default_folder
from decollapse.flower.messages import MessageError
from decollapse.flower.sum_messages import Asking, decode_request, encode_reply
from decollapse.secure.messages import ProtocolError
from decollapse.secure.participant import Refusal, Reply, answer


def answer_sum(content: RecordDict, data: DataOfApp, client: int, folder: Path | None) -> RecordDict:
    """The content of the reply, or of a refusal with its reason.

    Args:
        content: of the message.
        data: of the app.
        client: the partition of this node.
        folder: for what the client remembers; None for `memory.default_folder`.
    """
    try:
        asking = decode_request(content)
        if asking.client != client:
            raise MessageError(f"this is for client {asking.client}, and the node has partition-id={client}.")
        return encode_reply(_remembering(asking, data, folder or default_folder()))
    except (ClientError, ProtocolError) as error:
        return encode_reply(Refusal(str(error)))
    except (ValueError, OSError) as error:
        return encode_reply(Refusal(f"{type(error).__name__}: {error}"))


def _remembering(asking: Asking, data: DataOfApp, folder: Path) -> Reply:
    """The reply, given only when what follows from it is on disk."""
    file = MemoryFile(folder, asking.run, asking.client)
    with file.locked():
        train = partial(run_call, asking.recipe, data)
        reply, memory = answer(asking.request, asking.client, file.load(), train)
        file.save(memory)
        return reply
