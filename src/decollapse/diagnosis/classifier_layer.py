"""Which layer of somebody else's model takes the features."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear


def classifier_layer(model: nn.Module) -> str:
    """The name of the last `nn.Linear` of `model`, in the order of `named_modules()`: its input are the features.

    Raises:
        ValueError: there is none; or there are several heads: linear layers as wide as the last one at their input,
            whose output fits no linear layer after them.

    >>> classifier_layer(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    '2'
    """
    # The attention of PyTorch has a linear layer that is never called: its weights are used without it.
    linear: list[tuple[str, nn.Linear]] = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not isinstance(module, NonDynamicallyQuantizableLinear)
    ]
    if not linear:
        leaves = [name for name, module in model.named_modules() if name and not any(module.children())]
        raise ValueError(
            "the model has no nn.Linear whose input could be the features, so the layer has to be named; "
            f"its last ones are {', '.join(leaves[-3:]) or 'none'}."
        )
    last, classifier = linear[-1]
    heads = [
        name
        for number, (name, module) in enumerate(linear, start=1)
        if module.in_features == classifier.in_features
        and all(module.out_features != later.in_features for _, later in linear[number:])
    ]
    if len(heads) > 1:
        raise ValueError(
            f"the model has several linear layers that could be the classifier: {', '.join(heads)}; name one."
        )
    return last
