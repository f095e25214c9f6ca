"""What travels between the server app and a client app: a task one way, a result the other.

| record | task | answer |
|---|---|---|
| `about` | recipe, call, round, seed, client, as JSON | client, examples, steps, metrics, seconds, as JSON |
| `params` / `delta` | the broadcast's parameters | local minus broadcast |
| `buffers` | the broadcast's | the local model's |
| `extras` | the broadcast's (SCAFFOLD's control variate) | methods' and measurements' |
| `with-call` | the probe, in rounds where local models are measured | |
| `state-…` | what this client keeps between rounds | the same, as it is after the call |

Encoding and decoding are pure, and each other's inverse to the bit; JSON writes every float64 so that it is read back.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from decollapse.core import Broadcast, ClientResult, ClientState, ModelState
from decollapse.flower.tensors import decode, encode
from decollapse.schema import Table
from decollapse.tree import Tree

WHO, PLACE = "who", ("partition-id", "num-partitions")
"""The one record of an answer to a query, and what it says of the node."""
SECURE_SUM = "secure_sum"
"""The client app's function for the phases of a secure sum, which are in `sum_messages`."""
ABOUT, STATE = "about", "state-"
NUMBERS = ("client", "num_examples", "num_steps", "metrics", "step_size", "seconds", "parts", "failure")
"""Fields of a result that are no tensors."""


class MessageError(ValueError):
    """A message is not what it should be: damaged, or of another version."""


@dataclass(frozen=True, eq=False)
class Task:
    """What a client is asked to do.

    Attributes:
        recipe: the experiment's, complete.
        call: the description of the call, see `calls.described`.
        tensors: what goes with the call.
        broadcast: as every client of the cohort gets it.
        client: the client's number, which is its partition id.
        state: what it keeps between rounds.
    """

    recipe: Table
    call: Table
    tensors: Tree
    broadcast: Broadcast
    client: int
    state: ClientState


def encode_task(task: Task) -> RecordDict:
    """The content of a message to a client."""
    broadcast = task.broadcast
    about = {
        "recipe": task.recipe,
        "call": task.call,
        "round": broadcast.round,
        "seed": broadcast.seed,
        "client": task.client,
    }
    trees = {
        "params": broadcast.model.params,
        "buffers": broadcast.model.buffers,
        "extras": broadcast.extras,
        "with-call": task.tensors,
    }
    return _content(about, trees, task.state)


def decode_task(content: RecordDict) -> Task:
    """The task that was encoded.

    Raises:
        MessageError: the content is none.
    """
    about = read_json(content, ABOUT)
    try:
        model = ModelState(read_tree(content, "params"), read_tree(content, "buffers"))
        broadcast = Broadcast(about["round"], model, about["seed"], read_tree(content, "extras"))
        tensors, state = read_tree(content, "with-call"), _state(content)
        return Task(about["recipe"], about["call"], tensors, broadcast, about["client"], state)
    except (KeyError, TypeError) as error:
        raise MessageError(f"the task lacks {error}; install the same version of decollapse at both sides.") from None


def encode_result(result: ClientResult, state: ClientState) -> RecordDict:
    """The content of a client's answer."""
    about = {name: getattr(result, name) for name in NUMBERS}
    return _content(about, {"delta": result.delta, "buffers": result.buffers, "extras": result.extras}, state)


def decode_result(content: RecordDict, client: int) -> tuple[ClientResult, ClientState]:
    """The answer of `client`; whether its update is any good is for the guard to say.

    Raises:
        MessageError: the content is no answer, or that of another client.
    """
    about = read_json(content, ABOUT)
    if missing := [name for name in NUMBERS if name not in about]:
        raise MessageError(f"the answer lacks {missing[0]!r}.")
    numbers: dict[str, Any] = {name: about[name] for name in NUMBERS}
    trees: dict[str, Any] = {name: read_tree(content, name) for name in ("delta", "buffers", "extras")}
    result = ClientResult(**numbers, **trees)
    if result.client != client:
        raise MessageError(f"the answer is of client {result.client!r}, and client {client} was asked.")
    for name in ("num_examples", "num_steps"):
        if type(about[name]) is not int or about[name] < 0:
            raise MessageError(f"{name} is {about[name]!r}, expected a number of at least 0.")
    for name in ("metrics", "parts"):
        if not isinstance(about[name], dict) or not all(type(value) in (int, float) for value in about[name].values()):
            raise MessageError(f"{name} is {about[name]!r}, expected a table of numbers.")
    return result, _state(content)


def _content(about: dict[str, Any], trees: dict[str, Tree], state: ClientState) -> RecordDict:
    content = RecordDict({ABOUT: json_record(about)})
    for name, tree in (trees | {STATE + name: kept for name, kept in state.items()}).items():
        content[name] = encode(tree)
    return content


def json_record(table: Table) -> ConfigRecord:
    """A table as a record."""
    return ConfigRecord({"json": json.dumps(table)})


def read_json(content: RecordDict, name: str) -> dict[str, Any]:
    """The table that a record holds.

    Raises:
        MessageError: there is no such record, or it holds none.
    """
    record = content.get(name)
    try:
        about = json.loads(record["json"]) if isinstance(record, ConfigRecord) else None
    except (KeyError, TypeError, ValueError):
        about = None
    if not isinstance(about, dict):
        raise MessageError(f"the message has no record {name!r} that can be read.")
    return about


def read_tree(content: RecordDict, name: str) -> Tree:
    """The tensors that a record holds.

    Raises:
        MessageError: there is no such record, or one of its arrays is damaged.
    """
    record = content.get(name)
    if not isinstance(record, ArrayRecord):
        raise MessageError(f"the message has no arrays {name!r}.")
    try:
        return decode(record)
    except ValueError as error:
        raise MessageError(f"in {name!r}, {error}") from None


def _state(content: RecordDict) -> ClientState:
    return {name.removeprefix(STATE): read_tree(content, name) for name in content if name.startswith(STATE)}
