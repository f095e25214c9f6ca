"""What is trained: any PyTorch module. The recipe names the layer whose input are the features."""

from __future__ import annotations

from torch import Tensor, nn


class Network(nn.Module):
    """Two convolutions and a linear classifier."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )
        self.head = nn.Linear(128, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch."""
        logits: Tensor = self.head(self.encoder(x))
        return logits


def build_model(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """A freshly drawn model for examples of `input_shape`, without the batch."""
    return Network(input_shape[0], num_classes)
