"""A site of an NVFlare federation whose local training is decollapse's: the Client API around one client call."""

from __future__ import annotations

import argparse
from pathlib import Path

from decollapse import tree
from decollapse.aggregate import floating
from decollapse.config import load_recipe
from decollapse.core import Broadcast, ClientResult, ModelState
from decollapse.engines import Federation
from decollapse.experiment import prepare
from decollapse.tree import Tree


def received(params: Tree, like: ModelState) -> ModelState:
    """The server's model; NVFlare has parameters and buffers in one dictionary."""
    return ModelState({name: params[name] for name in like.params}, {name: params[name] for name in like.buffers})


def difference(result: ClientResult, sent: ModelState) -> Tree:
    """What the server adds to its model, averaged: the update, and how far BatchNorm's means and variances moved."""
    if result.extras:
        raise ValueError(
            f"NVFlare's FedAvg carries a model alone; a term sends {', '.join(sorted(result.extras))}, too."
        )
    return result.delta | tree.sub(floating(result.buffers), sent.params | sent.buffers)


def main() -> None:
    """Answer the server until it is done."""
    import nvflare.client as flare

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    prepared = prepare(load_recipe(parser.parse_args().recipe))
    experiment, like = prepared.experiment, prepared.initial_model()
    flare.init()
    client = int(flare.get_site_name().removeprefix("site-")) - 1
    state: dict[str, Tree] = {}  # what stateful terms remember, for as long as this process lives
    with experiment.engine(Federation(prepared.build_model, prepared.clients)) as engine:
        while flare.is_running():
            message = flare.receive()
            model = received(message.params, like)
            broadcast = Broadcast(message.current_round + 1, model, experiment.seed)  # NVFlare counts from 0
            ((result, state),) = engine.run(experiment.client, broadcast, [client], {client: state})
            print(f"client {client}, round {broadcast.round}: {result.metrics}", flush=True)
            meta = {
                "NUM_STEPS_CURRENT_ROUND": result.num_examples
            }  # the name is NVFlare's: it is the weight in the mean
            flare.send(flare.FLModel(params_type="DIFF", params=difference(result, model), meta=meta))


if __name__ == "__main__":
    main()
