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


class Parts(Sequence["NDArray[np.int64]"]):
    """The indices of every client, in one array: 100,000 clients then travel to a worker as two tensors."""

    def __init__(self, parts: Sequence[NDArray[np.int64]]) -> None:
        self._indices = torch.from_numpy(np.concatenate([np.asarray(part, dtype=np.int64) for part in parts]))
        self._ends = torch.tensor([0, *(len(part) for part in parts)]).cumsum(0)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, client: int) -> NDArray[np.int64]: ...

    @overload
    def __getitem__(self, client: slice) -> list[NDArray[np.int64]]: ...

    def __getitem__(self, client: int | slice) -> NDArray[np.int64] | list[NDArray[np.int64]]:
        """A view of one client's indices."""
        if isinstance(client, slice):
            return [self[index] for index in range(*client.indices(len(self)))]
        number = range(len(self))[client]
        view: NDArray[np.int64] = self._indices[self._ends[number] : self._ends[number + 1]].numpy()
        return view

    def sizes(self) -> NDArray[np.int64]:
        """How many indices each client has."""
        sizes: NDArray[np.int64] = self._ends.diff().numpy()
        return sizes

    def outside(self, count: int) -> int | None:
        """The first client with an index that is not 0 to `count - 1`, if there is one."""
        wrong = ((self._indices < 0) | (self._indices >= count)).nonzero()
        return int(torch.searchsorted(self._ends, wrong[0, 0], right=True)) - 1 if len(wrong) else None

    def share_memory(self) -> None:
        """Move the indices to shared memory, in place."""
        self._indices.share_memory_()
        self._ends.share_memory_()


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
        if not len(self.parts):
            raise ValueError(f"{self.dataset.name}: a federation needs at least one client, got an empty partition.")
        parts, num_train = Parts(self.parts), len(self.dataset.train_y)
        if len(empty := (parts.sizes() == 0).nonzero()[0]):
            raise ValueError(f"{self.dataset.name}: client {empty[0]} of {len(parts)} has no training example.")
        if (client := parts.outside(num_train)) is not None:
            raise ValueError(
                f"{self.dataset.name}: client {client} is given examples {parts[client].min()} to "
                f"{parts[client].max()}, the training split has 0 to {num_train - 1}."
            )
        object.__setattr__(self, "parts", parts)

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
        assert isinstance(self.parts, Parts)  # made so when this was
        self.parts.share_memory()
        return self
