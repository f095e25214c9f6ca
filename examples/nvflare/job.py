"""Run a recipe's clients under NVFlare's FedAvg, in NVFlare's simulator, and evaluate the model it ends with.

$ python job.py recipe.toml
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from client import received
from nvflare.app_opt.pt.file_model_persistor import PTFileModelPersistor
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv

from decollapse.aggregate.mean import WeightedMean
from decollapse.config import load_recipe
from decollapse.evaluation import evaluate
from decollapse.experiment import Experiment, prepare
from decollapse.objective import SendingTerm
from decollapse.server.sgd import ServerSGD

CLIENT = Path(__file__).with_name("client.py")
MODEL = Path("server", "simulate_job", "app_server", "FL_global_model.pt")
"""Where the simulator leaves the model, in the folder of a job."""


def check(experiment: Experiment) -> None:
    """Raise ValueError where the recipe asks for more than NVFlare's FedAvg does."""
    plain = (experiment.aggregate, experiment.server) == (WeightedMean(), ServerSGD())
    everyone = experiment.cohort_size in (None, experiment.num_clients)
    if not plain or not everyone or experiment.client.buffers == "recalibrate":
        raise ValueError(
            "the server is NVFlare's FedAvg, which asks every client: take aggregate, server, cohort_size and "
            "client.buffers out of the recipe."
        )
    for term in experiment.client.objective:
        if isinstance(term, SendingTerm):
            raise ValueError(f"NVFlare's FedAvg carries a model alone, and {term.name} sends more; take it out.")


def main() -> None:
    """Train and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--workspace", type=Path, default=Path("workspace"), help="NVFlare's files")
    arguments = parser.parse_args()
    try:
        prepared = prepare(load_recipe(arguments.recipe))
        check(prepared.experiment)
    except ValueError as error:
        parser.error(str(error))
    experiment, start = prepared.experiment, prepared.initial_model()

    workspace = arguments.workspace.absolute()
    workspace.mkdir(parents=True, exist_ok=True)
    initial = workspace / "initial_model.pt"
    torch.save(start.params | start.buffers, initial)
    job = FedAvgRecipe(
        name=arguments.recipe.stem,
        min_clients=experiment.num_clients,
        num_rounds=experiment.rounds,
        train_script=str(CLIENT),
        train_args=str(arguments.recipe.absolute()),
        model_persistor=PTFileModelPersistor(source_ckpt_file_full_name=str(initial)),
    )
    run = job.execute(SimEnv(num_clients=experiment.num_clients, workspace_root=str(workspace)))

    model, data = prepared.build_model(), prepared.dataset
    received(torch.load(Path(run.get_result()) / MODEL)["model"], start).load_into(model)
    result = evaluate(model, data.test_x, data.test_y, num_classes=data.num_classes, preprocess=data.preprocess)
    print(f"after round {experiment.rounds}: accuracy {result.accuracy:.4f}, loss {result.loss:.4f}")


if __name__ == "__main__":
    main()
