"""Models as the rest of the package sees them: logits, and the features the logits are made of.

`Classifier` is for a model written in two parts. `HookedClassifier` is for a model somebody else wrote (torchvision,
timm, Hugging Face): it takes the features from a named layer, and the model stays as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from decollapse.core import Output
from decollapse.models.names import nearest_names

if TYPE_CHECKING:
    from jaxtyping import Float


class ModelBuilder(Protocol):
    """A model as a value: a frozen dataclass of its settings that, called, draws a freshly initialised model.

    Weights come from torch's global generator: seed it inside `torch.random.fork_rng()`.
    """

    def __call__(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """A model for examples of `input_shape` (without the batch) whose `forward` returns an `Output`."""
        ...


class Classifier(nn.Module):
    """A model that returns its features beside its logits: `z = encoder(x)`, `logits = head(z)`.

    Args:
        encoder: maps a batch to features of shape (n, d).
        head: maps features to logits, the last layer.
        projector: maps the encoder's output to the features, if they are not the same: `z = projector(encoder(x))`.

    Raises:
        ValueError: in `forward`, when the features are not of shape (n, d).

    >>> import torch
    >>> model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU()), nn.Linear(3, 2))
    >>> output = model(torch.zeros(5, 1, 2, 2))
    >>> output.logits.shape, output.features.shape
    (torch.Size([5, 2]), torch.Size([5, 3]))
    """

    def __init__(self, encoder: nn.Module, head: nn.Module, projector: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = projector
        self.head = head

    def with_head(self, head: nn.Module, projector: nn.Module | None = None) -> Classifier:
        """The same encoder, then the projector there is, then `projector`, then `head`."""
        steps = [step for step in (self.projector, projector) if step is not None]
        return Classifier(self.encoder, head, nn.Sequential(*steps) if len(steps) > 1 else next(iter(steps), None))

    def forward(self, x: Float[Tensor, "n ..."]) -> Output:
        """Logits and features of a batch."""
        features = self.encoder(x)
        if features.ndim != 2:
            raise ValueError(
                f"the encoder must return features of shape (n, d), got {tuple(features.shape)}; end it with "
                "nn.AdaptiveAvgPool2d(1) and nn.Flatten() if these are feature maps."
            )
        if self.projector is not None:
            features = self.projector(features)
        return Output(logits=self.head(features), features=features)


def build_classifier(body: ModelBuilder, input_shape: tuple[int, ...], num_classes: int) -> tuple[Classifier, int]:
    """The model of `body` and the dimension of its features, for a builder that gives it another head.

    Raises:
        ValueError: the model is not a `Classifier`.
    """
    model = body(input_shape, num_classes)
    if not isinstance(model, Classifier):
        raise ValueError(
            f"only a decollapse Classifier can be given another head, got {type(model).__name__} from {body}; "
            "change the network itself, or write it as Classifier(encoder, head)."
        )
    was_training = model.training
    first = next(model.parameters(), torch.empty(0))
    with torch.no_grad():
        output = model.eval()(torch.zeros(2, *input_shape, dtype=first.dtype, device=first.device))
    return model.train(was_training), output.features.shape[1]


class HookedClassifier(nn.Module):
    """Any network, unchanged, with its features taken from the input or the output of one of its layers.

    The network may return a tensor, which is the logits, or any object with an attribute `logits` (Hugging Face's
    outputs, torchvision's Inception). The hook exists during `forward` only: nothing is kept alive between two batches,
    and copies and pickles are those of the network. Parameters are called `network.` + their own name.

    To compile, wrap the compiled network (`torch.compile(network)`, layer "_orig_mod.fc") or compile this module
    without `fullgraph`: registering the hook breaks the graph.

    A classifier that starts with dropout, `Sequential(Dropout, Linear)`, sees two kinds of features: the input of the
    `Sequential` is before the dropout, the input of its `Linear` after.

    Args:
        network: the model.
        layer: the layer's name in `network.named_modules()`.
        take: its "input" (the first argument it is called with) or its "output".

    Raises:
        ValueError: no layer has this name; or, in `forward`, the layer was called never or more than once, the features
            are not of shape (n, d), or the network returned no logits.

    >>> import torch
    >>> model = HookedClassifier(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), layer="2")
    >>> model(torch.zeros(5, 4)).features.shape
    torch.Size([5, 3])
    """

    def __init__(self, network: nn.Module, layer: str = "fc", take: Literal["input", "output"] = "input") -> None:
        super().__init__()
        if take not in ("input", "output"):
            raise ValueError(f'take must be "input" or "output", got {take!r}.')
        names = [name for name, _ in network.named_modules(remove_duplicate=False) if name]
        if layer not in names:
            raise ValueError(
                f"the network has no layer {layer!r}; the nearest names are {nearest_names(layer, names)}."
            )
        self.network = network
        self.layer = layer
        self.take = take

    def forward(self, x: Float[Tensor, "n ..."]) -> Output:
        """Logits and features of a batch."""
        seen: list[Any] = []

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.append(_keep(next(iter((*args, *kwargs.values())), None)))

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            seen.append(_keep(output))

        layer = self.network.get_submodule(self.layer)
        if self.take == "input":
            hook = layer.register_forward_pre_hook(before, with_kwargs=True)
        else:
            hook = layer.register_forward_hook(after)
        try:
            result = self.network(x)
        finally:
            hook.remove()
        return Output(logits=self._logits(result), features=self._features(seen))

    def _logits(self, result: Any) -> Tensor:
        logits = result if isinstance(result, Tensor) else getattr(result, "logits", None)
        if not isinstance(logits, Tensor):
            raise ValueError(
                "the network must return a tensor of logits or an object with an attribute `logits`, "
                f"got {type(result).__name__}; wrap it in a module that does."
            )
        return logits

    def _features(self, seen: list[Any]) -> Tensor:
        place = f"the {self.take} of layer {self.layer!r}"
        if len(seen) != 1:
            raise ValueError(
                f"layer {self.layer!r} must be called once in a forward, was called {len(seen)} times; "
                f"choose another: {self._advice()}."
            )
        features = seen[0]
        if not isinstance(features, Tensor):
            raise ValueError(
                f"{place} must be a tensor, got {type(features).__name__}; choose another: {self._advice()}."
            )
        if features.ndim != 2:
            raise ValueError(
                f"{place} must have shape (n, d), got {tuple(features.shape)}; choose a layer after the pooling "
                f"({self._advice()}), or pool in the network, as in `x.mean((2, 3))` for maps of shape (n, d, h, w)."
            )
        return features

    def _advice(self) -> str:
        linear = [name for name, module in self.network.named_modules() if isinstance(module, nn.Linear)]
        return f"its linear layers are {', '.join(linear[-3:])}" if linear else "it has no linear layer"


def _keep(seen: Any) -> Any:
    # A copy, because the layer itself or the next one may work in place, as ReLUs often do.
    return seen.clone() if isinstance(seen, Tensor) else seen
