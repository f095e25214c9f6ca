"""Models from other packages, named by import path."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

import torch
from torch import nn

from decollapse.core import Output
from decollapse.models.classifier import HookedClassifier


@dataclass(frozen=True)
class ImportedModel:
    """Any `nn.Module` another package makes, with its features taken from a named layer.

    The factory, a function or a class, is called with `options`, and with `num_classes` and `input_shape` where its
    signature names them. A batch of zeros is then sent through the model, so that a mistake shows before training.

    Attributes:
        factory: where it is, "package.module:name".
        layer: the layer to take the features from, see `HookedClassifier`; none: the model itself returns an `Output`.
        take: the "input" or the "output" of that layer.
        options: keyword arguments of the factory; they win over `num_classes` and `input_shape`.

    Raises:
        ValueError: when called, there is no such module, name, option or layer; the features are not of shape (n, d);
            or the number of logits is not the number of classes.

    `ImportedModel("torchvision.models:resnet18", layer="fc", options={"num_classes": 10})` has 512 features.

    >>> parts = {"encoder": nn.Flatten(), "head": nn.Linear(4, 2)}
    >>> build = ImportedModel("decollapse.models:Classifier", options=parts)
    >>> build((1, 2, 2), 2)(torch.zeros(5, 1, 2, 2)).features.shape
    torch.Size([5, 4])
    """

    factory: str
    layer: str | None = None
    take: Literal["input", "output"] = "input"
    options: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        _split(self.factory)
        if self.take not in ("input", "output"):
            raise ValueError(f'take must be "input" or "output", got {self.take!r}.')

    def __call__(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """A freshly drawn model."""
        network = self._make(input_shape, num_classes)
        model = network if self.layer is None else HookedClassifier(network, self.layer, self.take)
        self._check(model, input_shape, num_classes)
        return model

    def _make(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        make = import_object(self.factory)
        if not callable(make):
            raise ValueError(f"{self.factory!r} must be a function or a class, got {type(make).__name__}.")
        known = {"input_shape": input_shape, "num_classes": num_classes}
        signature = inspect.signature(make)
        options = {name: value for name, value in known.items() if name in signature.parameters} | self.options
        try:
            signature.bind(**options)
        except TypeError as error:
            raise ValueError(f"{self.factory}{signature} does not fit the options {options}: {error}.") from error
        network = make(**options)
        if not isinstance(network, nn.Module):
            raise ValueError(f"{self.factory!r} must return an nn.Module, got {type(network).__name__}.")
        return network

    def _check(self, model: nn.Module, input_shape: tuple[int, ...], num_classes: int) -> None:
        was_training = model.training
        first = next(model.parameters(), torch.empty(0))
        with torch.no_grad():
            output = model.eval()(torch.zeros(2, *input_shape, dtype=first.dtype, device=first.device))
        model.train(was_training)
        if not isinstance(output, Output):
            raise ValueError(
                f"{self.factory!r} must return a decollapse Output, got {type(output).__name__}; "
                "name the layer whose input are the features (layer)."
            )
        if output.logits.shape != (2, num_classes):
            raise ValueError(
                f"{self.factory!r} must give {num_classes} logits an example, got shape {tuple(output.logits.shape)} "
                f"for 2 examples; set its number of classes (options, often num_classes = {num_classes})."
            )


def import_object(path: str) -> Any:
    """What `path`, "package.module:name", names.

    Raises:
        ValueError: the path has no colon, or there is no such module or name in it; the nearest names are given. An
            error inside the module when it is imported is passed on as it is.

    >>> import_object("torch.nn:Linear")
    <class 'torch.nn.modules.linear.Linear'>
    """
    module_name, attribute = _split(path)
    found: Any = _import_module(module_name)
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ValueError(f"{module_name!r} has no {name!r}{_nearest(name, dir(found))}.") from None
    return found


def _split(path: str) -> tuple[str, str]:
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise ValueError(f'an import path looks like "package.module:name", got {path!r}.')
    return module_name, attribute


def _import_module(module_name: str) -> Any:
    """Import a module; where it or one of its parents is missing, say which, and what is there."""
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing != module_name and not module_name.startswith(f"{missing}."):
            raise  # a module that is there needs one that is not: not the path's fault
    parent, _, name = missing.rpartition(".")
    places = getattr(importlib.import_module(parent), "__path__", []) if parent else None
    siblings = [module.name for module in pkgutil.iter_modules(places)]
    where = f" in {parent!r}" if parent else "; is its folder in PYTHONPATH, or the package installed?"
    hint = _nearest(name, siblings)
    raise ValueError(f"there is no module {name!r}{where}{hint}" + ("." if hint or parent else ""))


def _nearest(name: str, names: list[str]) -> str:
    nearest = get_close_matches(name, names, n=3)
    return f" (nearest: {', '.join(nearest)})" if nearest else ""
