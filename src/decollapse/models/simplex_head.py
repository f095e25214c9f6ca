"""The fixed classifier of FedETF: a simplex equiangular tight frame, the same on every client and never trained.

Li, Shang, He, Lin, Wu, "No Fear of Classifier Biases: Neural Collapse Inspired Federated Learning with Synthetic and
Fixed Classifier", ICCV 2023, https://arxiv.org/abs/2303.10058. With U of shape (d, C) and U^T U = I,

    M      = sqrt(C / (C - 1)) (I - 1 1^T / C) U^T      a row a class, of length 1, at cosine -1 / (C - 1) to the others
    logits = gamma * M v,   v = z / max(||z||, 1e-12)   gamma is a learned number, trained and averaged like a weight

The loss that goes with it is the balanced softmax, cross-entropy of `logits + log(class counts)`.

Departures from the authors' code: M is a function of (C, d), where theirs is drawn at random and copied to the clients;
and logits carry gamma in evaluation too, which changes no prediction while gamma is positive. Their personalisation,
which trains M on the client, is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from decollapse.core import derive_seed
from decollapse.models.classifier import ModelBuilder, build_classifier

if TYPE_CHECKING:
    from jaxtyping import Float, Float64


def simplex_frame(num_classes: int, d: int) -> Float64[Tensor, "classes d"]:
    """One unit vector a class, any two of them at cosine -1 / (num_classes - 1), the widest angle all can have.

    A function of its arguments alone: torch's generator is neither read nor advanced.

    Raises:
        ValueError: fewer than 2 classes, or fewer dimensions than classes.

    >>> frame = simplex_frame(3, 5)
    >>> (frame @ frame.T).round(decimals=6)
    tensor([[ 1.0000, -0.5000, -0.5000],
            [-0.5000,  1.0000, -0.5000],
            [-0.5000, -0.5000,  1.0000]], dtype=torch.float64)
    """
    if num_classes < 2:
        raise ValueError(f"a simplex classifier needs at least 2 classes, got {num_classes}.")
    if d < num_classes:
        raise ValueError(
            f"a simplex classifier of {num_classes} classes needs at least {num_classes} features, got {d}; "
            f"set features to {num_classes} or more."
        )
    generator = torch.Generator().manual_seed(derive_seed("simplex", num_classes, d))
    # Uniform numbers are the generator's own bits, the same on every machine; normal ones go through its logarithm.
    random = torch.rand(d, num_classes, generator=generator, dtype=torch.float64, device="cpu") - 0.5
    q, r = torch.linalg.qr(random)
    u = q * r.diagonal().sign()  # the factor with a positive diagonal is unique, whichever library computes it
    frame: Tensor = math.sqrt(num_classes / (num_classes - 1)) * (u - u.mean(1, keepdim=True))
    return frame.T.contiguous()


class SimplexHead(nn.Module):
    """A classifier that learns one number: `logits = scale * normalize(features) @ frame.T`.

    The frame is a buffer outside the `state_dict`: it is the same everywhere by construction, so it is not sent, not
    averaged and not saved. Features of length 0 get logits 0.

    Args:
        in_features: dimension of the features, >= num_classes.
        num_classes: C, >= 2.
        scale: the initial gamma, an inverse temperature.

    >>> head = SimplexHead(64, 10)
    >>> head(torch.ones(5, 64)).shape, list(head.state_dict())
    (torch.Size([5, 10]), ['scale'])
    """

    frame: Tensor

    def __init__(self, in_features: int, num_classes: int, *, scale: float = 1.0) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = num_classes
        self.scale = nn.Parameter(torch.tensor(float(scale)))
        self.register_buffer("frame", simplex_frame(num_classes, in_features).to(self.scale), persistent=False)

    def forward(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n classes"]:
        """The scaled cosines between features and class vectors."""
        return self.scale * (normalize(features, dim=1, eps=1e-12) @ self.frame.T)

    def extra_repr(self) -> str:
        """The dimensions, for `print(model)`."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


@dataclass(frozen=True)
class SimplexClassifier:
    """The model of `body` with FedETF's fixed classifier, behind a linear projector if `features` is not 0.

    `Output.features` are the input of the head, so the projector's output, before it is scaled to length 1.

    Attributes:
        body: builds a `Classifier`, as every builder here but `ImportedModel` does.
        features: width of the projector, the feature dimension; the authors' code has the number of classes, and 64 for
            its small network. 0 leaves it out. Features behind a ReLU have no negative entry: two classes are then
            never more than a right angle apart, and never as far as in the frame.
        scale: the initial gamma, > 0; 1 in the authors' code, and 10 for its small network.

    Raises:
        ValueError: a negative width, or a scale that is not positive; when called, the model of `body` is no
            `Classifier`, or the features have fewer dimensions than there are classes.

    >>> from decollapse.models import ResNet20
    >>> build = SimplexClassifier(ResNet20(), features=10)
    >>> build((3, 32, 32), 10)(torch.zeros(2, 3, 32, 32)).features.shape
    torch.Size([2, 10])
    """

    body: ModelBuilder
    features: int = 0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.features < 0:
            raise ValueError(f"features is the width of the projector, or 0 for none, got {self.features}.")
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale must be positive and finite, got {self.scale}.")

    def __call__(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """A freshly drawn model."""
        model, num_features = build_classifier(self.body, input_shape, num_classes)
        projector = nn.Linear(num_features, self.features) if self.features else None
        head = SimplexHead(self.features or num_features, num_classes, scale=self.scale)
        return model.with_head(head, projector)
