"""A data set divided among clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, overload

import numpy as np
import torch
from torch import Tensor

from decollapse.core import ClientData
from decollapse.data.datasets import Dataset

if TYPE_CHECKING:
    from jaxtyping import Int
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class FederatedData(Sequence[ClientData]):
    """The clients of a federation: `data[k]` is client k's `ClientData`, made when asked for and not kept.

    Memory is that of the data set and of the indices, whatever the number of clients. It pickles; after
    `share_memory()` the processes started through `torch.multiprocessing` read the same images without a copy.

    Attributes:
        dataset: whose training split is divided.
        parts: for each client, the indices of its training examples; every one non-empty.

    Raises:
        ValueError: there is no client, a client is empty, or an index lies outside the training split.

    >>> from decollapse.data import IID, load_dataset
    >>> dataset = load_dataset("fashion-mnist-small", train_size=100)
    >>> data = FederatedData(dataset, IID()(dataset.train_y, 10, seed=0))
    >>> len(data), len(data[3]), data.num_examples(3)
    (10, 10, 10)
    """

    dataset: Dataset
    parts: Sequence[NDArray[np.int64]] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError(f"{self.dataset.name}: a federation needs at least one client, got an empty partition.")
        num_train = len(self.dataset.train_y)
        for client, part in enumerate(self.parts):
            if len(part) == 0:
                raise ValueError(f"{self.dataset.name}: client {client} of {len(self.parts)} has no training example.")
            if part.min() < 0 or part.max() >= num_train:
                raise ValueError(
                    f"{self.dataset.name}: client {client} is given examples {part.min()} to {part.max()}, "
                    f"the training split has 0 to {num_train - 1}."
                )

    def __len__(self) -> int:
        return len(self.parts)

    @overload
    def __getitem__(self, client: int) -> ClientData: ...

    @overload
    def __getitem__(self, client: slice) -> list[ClientData]: ...

    def __getitem__(self, client: int | slice) -> ClientData | list[ClientData]:
        """Copy one client's examples out of the data set."""
        if isinstance(client, slice):
            return [self[index] for index in range(*client.indices(len(self)))]
        number = range(len(self))[client]
        indices = torch.from_numpy(self.parts[number])
        return ClientData(
            client=number,
            x=self.dataset.train_x[indices],
            y=self.dataset.train_y[indices],
            num_classes=self.dataset.num_classes,
            preprocess=self.dataset.preprocess,
        )

    def num_examples(self, client: int) -> int:
        """How many training examples a client holds, without copying them."""
        return len(self.parts[client])

    def class_counts(self) -> Int[Tensor, "clients classes"]:
        """How many training examples of each class each client holds."""
        labels = self.dataset.train_y.numpy()
        return torch.stack(
            [torch.from_numpy(np.bincount(labels[part], minlength=self.dataset.num_classes)) for part in self.parts]
        )

    def share_memory(self) -> FederatedData:
        """Move the data set to shared memory, in place; see `Dataset.share_memory`."""
        self.dataset.share_memory()
        return self
