"""Named tensors as Flower's arrays and back, bit for bit.

| dtype | travels as |
|---|---|
| float16 to float64, complex, integers, bool | the bytes of a NumPy file, as Flower's own arrays do |
| bfloat16, which NumPy lacks | the same bits as int16, under the name `bfloat16` |
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor

from decollapse.tree import Tree

NUMPY = "numpy.ndarray"
"""How Flower calls the bytes of a NumPy file."""
BFLOAT16 = "bfloat16"


def encode(tree: Tree) -> ArrayRecord:
    """The leaves of `tree`, in its order, wherever they are and however they lie in memory.

    >>> decode(encode({"w": torch.tensor([0.1], dtype=torch.bfloat16), "steps": torch.tensor(3)}))
    {'w': tensor([0.1001], dtype=torch.bfloat16), 'steps': tensor(3)}
    """
    return ArrayRecord({name: _as_array(leaf) for name, leaf in tree.items()})


def decode(record: ArrayRecord) -> Tree:
    """What was encoded, contiguous and on the CPU.

    Raises:
        ValueError: an array is no NumPy file, or holds another dtype or shape than it says.
    """
    return {name: _as_tensor(name, array) for name, array in record.items()}


def _as_array(leaf: Tensor) -> Array:
    home = leaf.detach().cpu().contiguous()
    numbers = (home.view(torch.int16) if home.dtype == torch.bfloat16 else home).numpy()
    data = BytesIO()
    np.save(data, numbers, allow_pickle=False)
    name = BFLOAT16 if home.dtype == torch.bfloat16 else str(numbers.dtype)
    return Array(dtype=name, shape=tuple(home.shape), stype=NUMPY, data=data.getvalue())


def _as_tensor(name: str, array: Array) -> Tensor:
    if array.stype != NUMPY:
        raise ValueError(f"{name!r} is sent as {array.stype!r}, expected {NUMPY!r}.")
    try:
        numbers = np.load(BytesIO(array.data), allow_pickle=False)
        tensor = torch.from_numpy(np.require(numbers, requirements=["C", "W"]))
    except (ValueError, TypeError, EOFError, OSError) as error:
        raise ValueError(f"the bytes of {name!r} are no array ({error}).") from None
    stored = "int16" if array.dtype == BFLOAT16 else array.dtype
    if str(numbers.dtype) != stored or tuple(numbers.shape) != tuple(array.shape):
        raise ValueError(
            f"{name!r} says {array.dtype} of shape {tuple(array.shape)}, its bytes are {numbers.dtype} of shape "
            f"{tuple(numbers.shape)}."
        )
    return tensor.view(torch.bfloat16) if array.dtype == BFLOAT16 else tensor
