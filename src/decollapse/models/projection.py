"""The projection head of MOON: a small perceptron between the encoder and the classifier.

Li, He, Song, "Model-Contrastive Federated Learning", CVPR 2021, https://arxiv.org/abs/2103.16257: model = encoder,
projection head of two layers with output dimension 256, then the classifier. The contrastive loss compares the outputs
of the projection, and they are also what the classifier reads.

As in the authors' code, no activation follows the last layer, and weights start as PyTorch draws them. Departure: there
the first layer is as wide as the encoder's output; here the width is a number, 256 unless set.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from decollapse.models.classifier import ModelBuilder, build_classifier


@dataclass(frozen=True)
class Projected:
    """The model of `body` with a perceptron behind its encoder, and a new head behind that.

    The features are the perceptron's outputs, positive and negative. Its layers are `projector.linear1`,
    `projector.relu1`, `projector.linear2` and so on; the encoder's keep their names.

    Attributes:
        body: builds a `Classifier`, as every builder here but `ImportedModel` does.
        widths: of the linear layers; there is a ReLU between two. The last one is the feature dimension.

    Raises:
        ValueError: no width, or one below 1; when called, the model of `body` is no `Classifier`.

    >>> import torch
    >>> from decollapse.models import ResNet20
    >>> Projected(ResNet20())((3, 32, 32), 10)(torch.zeros(2, 3, 32, 32)).features.shape
    torch.Size([2, 256])
    """

    body: ModelBuilder
    widths: tuple[int, ...] = (256, 256)

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"a projection needs at least one layer and widths of at least 1, got {self.widths}.")

    def __call__(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """A freshly drawn model."""
        model, num_features = build_classifier(self.body, input_shape, num_classes)
        projector = nn.Sequential()
        for number, (inputs, outputs) in enumerate(pairwise((num_features, *self.widths)), start=1):
            if number > 1:
                projector.add_module(f"relu{number - 1}", nn.ReLU())
            projector.add_module(f"linear{number}", nn.Linear(inputs, outputs))
        return model.with_head(nn.Linear(self.widths[-1], num_classes), projector)
