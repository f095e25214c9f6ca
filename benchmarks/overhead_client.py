"""The client of Flower's side of overhead.py: a module of its own, because Ray's workers import it."""

from __future__ import annotations

import tomllib
from functools import cache

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from decollapse.config import from_table
from decollapse.core import Broadcast, ModelState
from decollapse.engines import Federation
from decollapse.engines.serial import Serial
from decollapse.experiment import Prepared, prepare


@cache
def prepared(recipe: str) -> Prepared:
    """The experiment with its data, read once in each process."""
    return prepare(from_table(tomllib.loads(recipe)))


def flower_client(recipe: str) -> ClientApp:
    """A client app as Flower's tutorials have it: weights in, the same local training, weights out."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        here = prepared(recipe)
        arrays, client = message.content["arrays"], int(context.node_config["partition-id"])
        assert isinstance(arrays, ArrayRecord)
        names = here.initial_model().params
        state = {name: leaf.clone() for name, leaf in arrays.to_torch_state_dict().items()}
        model = ModelState(
            {name: leaf for name, leaf in state.items() if name in names},
            {name: leaf for name, leaf in state.items() if name not in names},
        )
        engine = here.experiment.engine
        assert isinstance(engine, Serial)
        with engine(Federation(here.build_model, here.clients)) as started:
            broadcast = Broadcast(1, model, here.experiment.seed, {})
            ((result, _),) = started.run(here.experiment.algorithm.client, broadcast, [client], {})
        params = {name: leaf + result.delta[name] for name, leaf in model.params.items()}
        local = {name: (params | result.buffers)[name] for name in state}
        metrics = MetricRecord({"num-examples": result.num_examples})
        return Message(RecordDict({"arrays": ArrayRecord(local), "metrics": metrics}), reply_to=message)

    return app
