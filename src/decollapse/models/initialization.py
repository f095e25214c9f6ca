"""Initial weights, drawn from torch's global generator."""

from __future__ import annotations

from torch import nn


def kaiming(network: nn.Module) -> None:
    """Redraw every convolution and linear layer in place, so that ReLUs keep the scale.

    `W ~ N(0, 2 / fan_in)`, `b = 0`.

    He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", ICCV 2015, https://arxiv.org/abs/1502.01852. `fan_in` of a
    grouped convolution counts the inputs of one output, so depthwise layers keep the scale too.

    >>> layer = nn.Linear(3, 2)
    >>> kaiming(layer)
    >>> layer.bias
    Parameter containing:
    tensor([0., 0.], requires_grad=True)
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
