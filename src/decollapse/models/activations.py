"""Activations of layers named by the user, for losses and measurements at more places than the classifier's input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from decollapse.core import FEATURES, Output
from decollapse.models.names import nearest_names

if TYPE_CHECKING:
    from jaxtyping import Float


def forward(model: nn.Module, x: Float[Tensor, "n ..."], layers: tuple[str, ...] = ()) -> Output:
    """The output of `model`, with the activations of `layers` beside logits and features.

    Without layers it is `model(x)` and nothing else. Shapes and errors are those of `recorded`.

    >>> import torch
    >>> from decollapse.models import MLP
    >>> output = forward(MLP(hidden=(32, 16))((1, 8, 8), 10), torch.zeros(5, 1, 8, 8), ("encoder.linear1",))
    >>> output.layers["encoder.linear1"].shape
    torch.Size([5, 32])
    """
    if not layers:
        output: Output = model(x)
        return output
    with recorded(model, layers) as seen:
        output = model(x)
    return replace(output, layers=seen)


@contextmanager
def recorded(model: nn.Module, layers: tuple[str, ...]) -> Iterator[dict[str, Float[Tensor, "n d"]]]:
    """Record the outputs of `layers` in the forward passes of `model` inside a `with` block.

    The dict the block is given holds the last pass, one vector an example, inside the autograd graph: maps (n, d, h, w)
    are averaged over pixels, sequences (n, tokens, d) over tokens, and (n, d) is copied, because later layers may work
    in place. A call through `torch.func.functional_call` is a pass too. Afterwards the model has no hooks.

    Args:
        model: what the block calls as a whole.
        layers: names in `model.named_modules()`. The name "features" is no layer's: it is the classifier's input, which
            every `Output` has.

    Raises:
        ValueError: no layer has this name; or, in a pass, a layer was called never or more than once, or its output is
            not a tensor of one of the three shapes.

    >>> import torch
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    >>> x = torch.ones(5, 1, 4, 4)
    >>> with recorded(model, ("0",)) as seen:
    ...     logits = model(x)
    >>> torch.equal(seen["0"], model[0](x).mean((2, 3)))
    True
    """
    names = tuple(dict.fromkeys(layers))
    modules = [_find(model, name) for name in names]
    seen: dict[str, Tensor] = {}

    def start(module: nn.Module, args: Any) -> None:
        seen.clear()

    def see(name: str, module: nn.Module, args: Any, output: Any) -> None:
        if name in seen:
            raise ValueError(f"layer {name!r} must be called once in a forward, was called again; choose another.")
        seen[name] = _pooled(name, output)

    def finish(module: nn.Module, args: Any, output: Any) -> None:
        for name in names:
            if name not in seen:
                raise ValueError(f"layer {name!r} must be called once in a forward, was never called; choose another.")

    hooks = [model.register_forward_pre_hook(start)]
    hooks += [module.register_forward_hook(partial(see, name)) for name, module in zip(names, modules, strict=True)]
    hooks += [model.register_forward_hook(finish)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _find(model: nn.Module, name: str) -> nn.Module:
    if name == FEATURES:
        raise ValueError(f"{FEATURES!r} is the classifier's input, part of every output, and not a layer to record.")
    modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    del modules[""]
    if name not in modules:
        raise ValueError(f"the model has no layer {name!r}; the nearest names are {nearest_names(name, modules)}.")
    return modules[name]


def _pooled(name: str, activation: Any) -> Tensor:
    if not isinstance(activation, Tensor):
        raise ValueError(
            f"the output of layer {name!r} must be a tensor, got {type(activation).__name__}; choose a layer inside it."
        )
    if activation.ndim == 4:
        return activation.mean((2, 3))
    if activation.ndim == 3:
        return activation.mean(1)
    if activation.ndim == 2:
        return activation.clone()
    raise ValueError(
        f"the output of layer {name!r} must have shape (n, d), (n, tokens, d) or (n, d, height, width), "
        f"got {tuple(activation.shape)}; choose another."
    )
