"""The client app: a task in, an answer out, by the engine that everyone has.

Flower starts a fresh process for every message of a deployed federation, so nothing is kept here between two messages:
what a client remembers comes with the task and goes with the answer; under secure aggregation it is in a file.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from decollapse.config import from_table
from decollapse.core import Broadcast, ClientCall, ClientResult, ClientState
from decollapse.engines import ClientError, EngineSettings
from decollapse.engines.serial import Serial, SerialEngine
from decollapse.flower.calls import DescribedCall
from decollapse.flower.data import DataOfApp
from decollapse.flower.messages import PLACE, SECURE_SUM, WHO, MessageError, Task, decode_task, encode_result
from decollapse.flower.processes import end_with_parent
from decollapse.schema import Table


def client_app(data: DataOfApp) -> ClientApp:
    """A client app that says which partition it is, and runs what it is sent on `data`."""
    app = ClientApp()
    end_with_parent()

    def who(message: Message, context: Context) -> Message:
        place = {key: context.node_config.get(key, -1) for key in PLACE}
        return Message(RecordDict({WHO: ConfigRecord(place)}), reply_to=message)

    def train(message: Message, context: Context) -> Message:
        client = context.node_config.get("partition-id", -1)
        result, state = _answer(message.content, data, int(client))
        return Message(encode_result(result, state), reply_to=message)

    def add_up(message: Message, context: Context) -> Message:
        from decollapse.flower.secure_client import answer_sum  # which imports cryptography

        client, place = context.node_config.get("partition-id", -1), context.node_config.get("state-dir")
        folder = None if place is None else Path(str(place)).expanduser()
        return Message(answer_sum(message.content, data, int(client), folder), reply_to=message)

    app.query()(who)
    app.train()(train)
    app.train(SECURE_SUM)(add_up)
    return app


def _answer(content: RecordDict, data: DataOfApp, client: int) -> tuple[ClientResult, ClientState]:
    """The result, or what went wrong: Flower would not carry the reason to the server."""
    try:
        task = decode_task(content)
        if task.client != client:
            raise MessageError(f"the task is for client {task.client}, this node has partition-id={client}.")
        return run_task(task, data)
    except ClientError as error:
        return ClientResult.failed(client, str(error)), {}
    except (ValueError, OSError) as error:
        return ClientResult.failed(client, f"{type(error).__name__}: {error}"), {}


def client_settings(engine: EngineSettings) -> Serial:
    """The serial engine with the arithmetic of the recipe's: what each client, and the server's evaluation, runs in."""
    own = {entry.name for entry in fields(engine)}  # type: ignore[arg-type]  # settings are frozen dataclasses
    return Serial(**{entry.name: getattr(engine, entry.name) for entry in fields(Serial) if entry.name in own})


def run_task(task: Task, data: DataOfApp) -> tuple[ClientResult, ClientState]:
    """Run what is asked on the client's examples, with the bits of the serial engine.

    Raises:
        ClientError: the call failed.
        ValueError: the recipe or the data are no good here, or the recipe has secure aggregation, and what is asked
            would show the server this client's own result.
    """
    if from_table(task.recipe).secure_aggregation:
        raise MessageError("the recipe has secure_aggregation = true, and this task is not of a secure sum.")
    return run_call(task.recipe, data, DescribedCall(task.call, task.tensors), task.broadcast, task.client, task.state)


def run_call(
    recipe: Table, data: DataOfApp, call: ClientCall, broadcast: Broadcast, client: int, state: ClientState
) -> tuple[ClientResult, ClientState]:
    """The same for a call that is built; raises as `run_task`."""
    federation = data.at_client(recipe, client)
    with client_settings(from_table(recipe).engine)(federation) as engine:
        assert isinstance(engine, SerialEngine)
        return engine.run_one(call, broadcast, client, state)
