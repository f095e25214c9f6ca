from __future__ import annotations

import json
from pathlib import Path

import pytest

from decollapse.aggregate.mean import WeightedMean
from decollapse.catalog import CATALOG
from decollapse.config import RecipeError, from_table, load_recipe, parse_value, set_key, to_table
from decollapse.data import IID, Crop, Flip
from decollapse.engines.serial import Serial
from decollapse.experiment import Experiment
from decollapse.models import Projected, ResNet20
from decollapse.optim import SGD
from decollapse.sam import SAM
from decollapse.schedule import Scheduled, WarmUp
from decollapse.server.scaffold import ServerScaffold
from decollapse.server.sgd import ServerSGD
from decollapse.terms.cross_entropy import CrossEntropy
from decollapse.terms.feddecorr import FedDecorr
from decollapse.terms.moon import MOON
from decollapse.terms.proximal import Proximal

RECIPE = """
rounds = 3
partition = "iid"
model = { name = "resnet20", norm = "group" }

[client]
epochs = 5
augment = ["crop", { name = "flip", p = 0.25 }]

[client.objective.feddecorr]
beta = 0.05

[server]
momentum = 0.9

[engine]
name = "serial"
"""


def test_a_recipe_becomes_the_components_it_names(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    experiment = load_recipe(path)
    assert experiment.partition == IID()
    assert experiment.model == ResNet20(norm="group")
    assert experiment.client.objective == (CrossEntropy(), FedDecorr(beta=0.05))
    assert experiment.client.augment == (Crop(), Flip(p=0.25))
    assert experiment.server == ServerSGD(momentum=0.9)
    assert experiment.engine == Serial()
    assert experiment.rounds == 3


def test_an_empty_recipe_is_the_default_experiment() -> None:
    assert from_table({}) == Experiment()


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["partition=iid", "server.momentum=0.5", "data=digits", "model.channels=[8, 16]"],
        ["client.objective.proximal.mu=0.1", "client.objective.feddecorr=true", "cohort_size=3"],
        ["client.objective.cross_entropy=false", "client.objective.proximal.mu=1"],
        ["client.optimizer=adam", "engine=serial", "guard=clip", 'client.augment=["crop"]'],
    ],
)
def test_a_recipe_survives_the_way_to_a_table_and_back(overrides: list[str]) -> None:
    experiment = load_recipe(None, overrides)
    assert from_table(json.loads(json.dumps(to_table(experiment)))) == experiment


def test_terms_are_added_to_cross_entropy_and_can_be_taken_out() -> None:
    assert load_recipe(None, ["client.objective.proximal.mu=2"]).client.objective == (CrossEntropy(), Proximal(mu=2))
    only = load_recipe(None, ["client.objective.cross_entropy=false", "client.objective.proximal.mu=2"])
    assert only.client.objective == (Proximal(mu=2),)


def test_an_algorithm_is_short_for_what_it_does_to_the_recipe() -> None:
    client = {"epochs": 3, "objective": {"feddecorr": {"beta": 0.05}}}
    experiment = from_table({"client": client, "algorithm": {"name": "moon", "mu": 5.0}, "server": {"momentum": 0.5}})
    assert experiment.client.objective == (CrossEntropy(), FedDecorr(beta=0.05), MOON(mu=5.0))
    assert experiment.client.epochs == 3
    assert experiment.server == ServerSGD(momentum=0.5)


def test_an_algorithm_fills_its_slots_and_its_recipe_says_so() -> None:
    experiment = from_table({"algorithm": "scaffold"})
    assert (experiment.aggregate, experiment.server) == (WeightedMean(weights="uniform"), ServerScaffold())
    assert "algorithm" not in to_table(experiment)
    assert from_table(to_table(experiment)) == experiment


def test_an_optimiser_around_an_optimiser_keeps_the_inner_ones_settings() -> None:
    experiment = from_table({"algorithm": "fedsam", "client": {"optimizer": {"lr": 0.3}}})
    assert experiment.client.optimizer == SAM(base=SGD(lr=0.3))


def test_a_schedule_stands_beside_the_settings_of_its_term() -> None:
    terms = {"feddecorr": {"beta": 0.2, "schedule": {"name": "warm_up", "rounds": 7}}}
    experiment = from_table({"client": {"objective": terms}})
    assert experiment.client.objective[1] == Scheduled(FedDecorr(beta=0.2), WarmUp(rounds=7))
    assert from_table(to_table(experiment)) == experiment


def test_a_model_around_a_model_is_a_nested_table() -> None:
    experiment = load_recipe(None, ["model=projected", "model.widths=[32]", "model.body=resnet20"])
    assert experiment.model == Projected(body=ResNet20(), widths=(32,))
    assert from_table(to_table(experiment)) == experiment


def test_a_name_with_a_colon_is_imported() -> None:
    experiment = load_recipe(None, ['model="decollapse.models:ResNet20"'])
    assert experiment.model == ResNet20()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["client.epoch=5"], "client.epoch is no setting of client; did you mean 'epochs'?"),
        (["round=5"], "round is no setting of a recipe; did you mean 'rounds'?"),
        (["model=resnet200"], "model = 'resnet200' is not known; did you mean 'resnet20'?"),
        (["client.objective.feddecor.beta=1"], "did you mean 'feddecorr'?"),
        (["client.objective.feddecorr.bta=1"], "did you mean 'beta'?"),
        (["client.objective.feddecorr.beta=-1"], "client.objective.feddecorr: beta"),
        (["partition.alpha=0"], "alpha"),
        (["partition.alpha=-0.5"], "alpha"),
        (["client.epochs=many"], "client.epochs = 'many': input should be a valid integer"),
        (["client.epochs=0"], "epochs and batch_size are at least 1"),
        (["cohort_size=11"], "cohort_size is from 1 to num_clients = 10, got 11"),
        (["num_clients=0"], "at least 1"),
        (["guard=ignore"], "'reject', 'abort' or 'clip'"),
        (["model.norm=btch"], "norm"),
        (["client.augment=crop"], "client.augment is a list"),
        (["model=no.such:Thing"], "cannot be imported"),
        (["model=decollapse.core:derive_seed"], "must be a frozen dataclass"),
        (["client=5"], "client is a table of settings, got 5"),
        (["epochs"], "written key=value"),
        (["data=fashion-mnst-small"], "fashion-mnist-small"),
        (["seed=-1"], "a seed is 0 or more"),
        (["algorithm=fedpros"], "algorithm = 'fedpros' is not known; did you mean 'fedprox'?"),
        (["algorithm=moon", "algorithm.muh=1"], "algorithm.muh is no setting of moon; did you mean 'mu'?"),
        (["algorithm=moon", "algorithm.mu=-1"], "algorithm = 'moon': mu is a strength"),
        (["algorithm=scaffold", "aggregate=krum"], "scaffold fills the slot 'aggregate', and so does the recipe"),
        (["algorithm=scaffold", "client.optimizer=adam"], "which SGD has and Adam has not"),
        (["server=scaffold"], "is half of a method; add the term client.objective.scaffold"),
        (["client.objective.feddyn=true"], 'is half of a method; set server = "feddyn"'),
        (["client.objective.restricted_softmax=true"], "one loss of the task, got cross_entropy and"),
        (["aggregate=krum", "secure_aggregation=true"], "the server sees sums alone, and Krum needs every update"),
        (["client.objective.feddecorr.schedule=warmup"], "did you mean 'warm_up'?"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_way_out(overrides: list[str], sentence: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(None, overrides)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_mistake_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[client]\nepoch = 3\n")
    with pytest.raises(RecipeError, match=r"mine.toml: client.epoch is no setting"):
        load_recipe(path)
    path.write_text("[client\n")
    with pytest.raises(RecipeError, match=r"mine.toml is not TOML"):
        load_recipe(path)
    with pytest.raises(RecipeError, match="there is no recipe"):
        load_recipe(tmp_path / "absent.toml")


def test_overrides_reach_into_names_and_tables() -> None:
    table = {"model": "resnet20", "server": {"momentum": 0.9}}
    set_key(table, "model.norm=group")
    set_key(table, "server=sgd")
    assert table == {"model": {"name": "resnet20", "norm": "group"}, "server": {"name": "sgd"}}


def test_values_are_toml_or_plain_words() -> None:
    assert [parse_value(text) for text in ("1e-5", "true", "[1]", "iid", "npz:data/x")] == [
        1e-5,
        True,
        [1],
        "iid",
        "npz:data/x",
    ]


@pytest.mark.parametrize("kind", CATALOG)
def test_everything_in_the_catalogue_is_frozen_or_a_function_and_has_a_first_sentence(kind: str) -> None:
    for component in CATALOG[kind].values():
        assert kind == "algorithm" or component.__dataclass_params__.frozen
        assert (component.__doc__ or "").strip().partition("\n")[0].rstrip().endswith((".", ":", "`", ")"))
