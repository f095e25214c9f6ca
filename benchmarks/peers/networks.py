"""The models of the jobs: one definition, which every side trains."""

from __future__ import annotations

from torch import nn

from decollapse.models import MLP, Classifier, ModelBuilder, ResNet20


def pfl_cnn(input_shape: tuple[int, int, int], num_classes: int) -> Classifier:
    """The network of the CIFAR-10 benchmark of apple/pfl-research: 1,626,442 parameters on 3 x 32 x 32 pixels.

    Two 3 x 3 convolutions, max-pooling, dropout, a hidden layer of 128, dropout, the head; Glorot's uniform weights.
    """
    channels, height, width = input_shape
    encoder = nn.Sequential(
        nn.Conv2d(channels, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(64 * ((height - 4) // 2) * ((width - 4) // 2), 128),
        nn.ReLU(),
        nn.Dropout(0.5),
    )
    model = Classifier(encoder, nn.Linear(128, num_classes))
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    return model


BUILDERS: dict[str, ModelBuilder] = {"cnn": pfl_cnn, "resnet20": ResNet20(norm="batch"), "mlp": MLP(hidden=(128,))}
"""For the peers."""

RECIPES: dict[str, list[str]] = {
    "cnn": ["model.name=imported", "model.factory=networks:pfl_cnn"],
    "resnet20": ["model.name=resnet20", "model.norm=batch"],
    "mlp": ["model.name=mlp", "model.hidden=[128]"],
}
"""The same models in the words of a recipe."""
