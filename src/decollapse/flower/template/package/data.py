"""Where the examples are. To begin with, 5,000 pictures of clothes that come with decollapse, dealt unevenly."""

from __future__ import annotations

from torch import Tensor

from decollapse.data import Dirichlet, Normalize, load_dataset

CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
"""Names of the classes, in the order of the labels; the same everywhere."""

PREPROCESS = Normalize(mean=(0.5,), std=(0.5,))
"""From stored examples to the model's input; the same everywhere, so nobody's statistics are needed for it."""


def client_data(partition_id: int, num_partitions: int) -> tuple[Tensor, Tensor]:
    """One client's examples and labels. Called at that client alone; replace it by what reads your own files.

    Args:
        partition_id: which client this is, from 0: the SuperNode was started with it.
        num_partitions: how many clients there are.

    Returns:
        uint8 images (n, channels, height, width) or floating-point features (n, ...), and int64 labels (n,).
    """
    dataset = load_dataset("fashion-mnist-small")
    mine = Dirichlet(alpha=0.1)(dataset.train_y, num_partitions, seed=0)[partition_id]
    return dataset.train_x[mine], dataset.train_y[mine]


def test_data() -> tuple[Tensor, Tensor]:
    """Examples and labels that the model is evaluated on. Called at the server alone.

    Some of them are sent to the clients, to compare local models, where the recipe has `local_every`: take examples
    that all may see, or set it to 0.
    """
    dataset = load_dataset("fashion-mnist-small")
    return dataset.test_x, dataset.test_y
