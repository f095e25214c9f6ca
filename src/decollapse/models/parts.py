"""Parts of a model by name: what a method freezes (FedBABU's head) or leaves on the client (FedPer's, FedBN's)."""

from __future__ import annotations

from torch import nn

from decollapse.models.names import nearest_names
from decollapse.models.norm import NORM_LAYERS

ALL = "all"
NORM = "norm"


def parameter_names(model: nn.Module, parts: tuple[str, ...]) -> set[str]:
    """The names, as in `model.named_parameters()`, of the parameters that belong to at least one of `parts`.

    A part is the name of a module ("head", "encoder.stage3") or of a parameter ("head.bias"); "norm", every parameter
    of a normalisation layer, told by its type and empty where there is none; or "all". These two words win over a
    module of the same name: say "norm.weight" and "norm.bias" for those of a module that is called norm.

    A parameter with several names, as tied weights have, belongs to the parts of all of them.

    Raises:
        ValueError: no module and no parameter has this name, or the module has no parameters.

    >>> from decollapse.models import MLP
    >>> model = MLP(hidden=(8,), norm="batch")((4,), 2)
    >>> sorted(parameter_names(model, ("norm", "head.bias")))
    ['encoder.norm1.bias', 'encoder.norm1.weight', 'head.bias']
    """
    if not parts:
        return set()
    first_name = {param: name for name, param in model.named_parameters()}
    every_name = {name: first_name[param] for name, param in model.named_parameters(remove_duplicate=False)}
    found: set[str] = set()
    for part in parts:
        prefixes = _prefixes(model, part)
        members = {first for name, first in every_name.items() if f"{name}.".startswith(prefixes)}
        if not members and part not in (ALL, NORM):
            raise ValueError(_unknown(model, part, every_name))
        found |= members
    return found


def _prefixes(model: nn.Module, part: str) -> tuple[str, ...]:
    """What the names of a part's parameters start with, when a dot is set behind each."""
    if part == ALL:
        return ("",)
    if part == NORM:
        modules = model.named_modules(remove_duplicate=False)
        return tuple(f"{name}." for name, module in modules if isinstance(module, NORM_LAYERS))
    return (f"{part}.",)


def _unknown(model: nn.Module, part: str, parameters: dict[str, str]) -> str:
    modules = {name for name, _ in model.named_modules(remove_duplicate=False) if name}
    if part in modules:
        return f"the part {part!r} of the model has no parameters; name one that has."
    known = [*sorted(modules), *parameters, ALL, NORM]
    return f"the model has no part {part!r}; the nearest names are {nearest_names(part, known)}."
