"""The diagnosis of any checkpoint: weights in a safetensors file, a model, a data set, and a layer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from decollapse.config import load_recipe
from decollapse.core import ModelState
from decollapse.data import Dataset
from decollapse.diagnose.finding import Finding, of_one_model
from decollapse.diagnosis.local import Probe
from decollapse.experiment import Experiment
from decollapse.models import HookedClassifier, import_object
from decollapse.models.names import nearest_names

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".tar")
WRAPPERS = ("params|", "buffers|", "module.", "_orig_mod.", "network.")
"""What a checkpoint of this package, `DataParallel`, `torch.compile` and `HookedClassifier` put before a name."""


def diagnose_weights(
    weights: Path,
    model: str,
    data: str,
    *,
    layer: str | None = None,
    take: Literal["input", "output"] = "input",
    overrides: Sequence[str] = (),
) -> Finding:
    """Measure a model on a whole test set, and judge it.

    Args:
        weights: a safetensors file: a state dict, or the checkpoint of a run.
        model: a name of the catalogue, or "package.module:factory".
        data: a data set, as in a recipe.
        layer: the layer to take features from; None for the classifier's input of a model that returns an `Output`.
        take: the "input" or the "output" of that layer.
        overrides: further settings of `model` and `data`, such as "model.norm=group".

    Raises:
        ValueError: a name is unknown, the weights do not fit the model, the features are not (n, d), or they are NaN.
    """
    tensors = read_weights(weights)
    experiment = _experiment(model, data, layer, take, overrides)
    dataset = experiment.data.load()
    network = _network(experiment, dataset, layer, take)
    load_weights(network, tensors, where=str(weights))
    probe = Probe(dataset.test_x, dataset.test_y, dataset.num_classes, dataset.preprocess)
    output = probe.output(network)
    if output is None:
        raise ValueError(f"{weights}: the features or the logits are NaN or infinite; the model has diverged.")
    return of_one_model(
        output,
        probe,
        subject=str(weights),
        source=f"{model} on the {len(probe.y):,} test examples of {data}" + (f", layer {layer}" if layer else ""),
        head=_head(network),
    )


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name; of a run's checkpoint, those of the model.

    Raises:
        ValueError: there is no such file, or it is a pickle or damaged.
    """
    if path.suffix in PICKLES:
        raise ValueError(
            f"{path} looks like a pickle, which can run code when it is loaded; if you trust it, convert it once: "
            "safetensors.torch.save_file(torch.load(path, weights_only=True), 'model.safetensors')."
        )
    if not path.is_file():
        raise ValueError(f"there is no file {path}.")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no safetensors file, or is truncated ({error}).") from None
    of_model = {name: leaf for name, leaf in tensors.items() if name.startswith(("params|", "buffers|"))}
    return of_model or tensors


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Overwrite every parameter and buffer of `model`, whatever wrapped it when it was saved.

    Args:
        model: a `HookedClassifier` is looked into.
        tensors: by name; a name may have one of `WRAPPERS` before it.
        where: what to call them in an error.

    Raises:
        ValueError: a tensor is missing, is not the model's, or has another shape.
    """
    network = model.network if isinstance(model, HookedClassifier) else model
    state = ModelState.of(network)
    expected = state.params | state.buffers
    given = {_unwrapped(name, expected): leaf for name, leaf in tensors.items()}
    for name, leaf in expected.items():
        if name not in given:
            near = nearest_names(name, given)
            raise ValueError(f"{where} does not fit the model: it has no {name!r}; the nearest names in it are {near}.")
        if given[name].shape != leaf.shape:
            raise ValueError(
                f"{where} does not fit the model: {name!r} has shape {tuple(given[name].shape)}, the model's has "
                f"{tuple(leaf.shape)}; check the number of classes and the model's settings."
            )
    known = network.state_dict()
    for name in given:
        if name not in known:
            raise ValueError(
                f"{where} does not fit the model, which has no {name!r}; the nearest names are "
                f"{nearest_names(name, known)}."
            )
    ModelState({name: given[name] for name in expected}).load_into(network)


def _unwrapped(name: str, known: Iterable[str]) -> str:
    """The name without what wrappers put before it, as far as that makes it one that is known."""
    shorter = name
    while shorter not in known:
        prefix = next((prefix for prefix in WRAPPERS if shorter.startswith(prefix)), None)
        if prefix is None:
            return name
        shorter = shorter.removeprefix(prefix)
    return shorter


def _experiment(
    model: str, data: str, layer: str | None, take: Literal["input", "output"], overrides: Sequence[str]
) -> Experiment:
    chosen = [f"model={model}"]
    if ":" in model and not is_dataclass(import_object(model)):  # a factory, not a builder
        chosen = ["model=imported", f"model.factory={json.dumps(model)}"]
        chosen += [f"model.layer={json.dumps(layer)}", f"model.take={take}"] if layer is not None else []
    return load_recipe(None, [*chosen, f"data={data}", *overrides])


def _network(
    experiment: Experiment, dataset: Dataset, layer: str | None, take: Literal["input", "output"]
) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        network = experiment.model(dataset.input_shape, dataset.num_classes)
    if layer is None or isinstance(network, HookedClassifier):
        return network
    return HookedClassifier(network, layer, take)


def _head(model: nn.Module) -> Tensor | None:
    """The weight of the classifier, as far as it is known; whether it fits the features is seen later."""
    if not isinstance(model, HookedClassifier):
        return model.state_dict().get("head.weight")
    layer = model.layer if model.take == "input" else "head"
    return model.network.state_dict().get(f"{layer}.weight")
