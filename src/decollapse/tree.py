"""Named tensors and their arithmetic.

A `Tree` is a flat `dict[str, Tensor]`: the `state_dict` of a model, its gradient, or a client's update. Flat, so that
it is also a safetensors file and a Flower ArrayRecord. Functions return a new tree and leave their arguments alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

Tree = dict[str, Tensor]


def add(a: Tree, b: Tree) -> Tree:
    """`a + b`, leaf by leaf.

    >>> add({"w": torch.ones(2)}, {"w": torch.ones(2)})
    {'w': tensor([2., 2.])}
    """
    return {name: a[name] + b[name] for name in a}


def sub(a: Tree, b: Tree) -> Tree:
    """`a - b`, leaf by leaf."""
    return {name: a[name] - b[name] for name in a}


def scale(a: Tree, factor: float) -> Tree:
    """`factor * a`, leaf by leaf."""
    return {name: leaf * factor for name, leaf in a.items()}


def zeros_like(a: Tree) -> Tree:
    """A tree of zeros with the shapes, dtypes and devices of `a`."""
    return {name: torch.zeros_like(leaf) for name, leaf in a.items()}


def dot(a: Tree, b: Tree) -> Tensor:
    """The inner product of two trees seen as one long vector, a scalar tensor."""
    return torch.stack([(a[name] * b[name]).sum() for name in a]).sum()


def squared_norm(a: Tree) -> Tensor:
    """The squared Euclidean norm of the whole tree, a scalar tensor.

    >>> squared_norm({"w": torch.tensor([3.0]), "b": torch.tensor([4.0])})
    tensor(25.)
    """
    return dot(a, a)


class RunningMean:
    """A weighted mean that holds one tree however many it has seen, summed in the order they come.

    >>> mean = RunningMean()
    >>> mean.update(1, {"w": torch.tensor(0.0)})
    >>> mean.update(3, {"w": torch.tensor(4.0)})
    >>> mean.result()
    {'w': tensor(3.)}
    """

    def __init__(self) -> None:
        self._total = 0.0
        self._sum: Tree | None = None

    def update(self, weight: float, tree: Tree) -> None:
        """Add one tree; `weight` is non-negative."""
        self._total += weight
        if self._sum is None:
            self._sum = scale(tree, weight)
        else:
            for name, leaf in self._sum.items():
                leaf.add_(tree[name], alpha=weight)

    def result(self) -> Tree:
        """`sum_i p_i a_i / sum_i p_i`.

        Raises:
            ValueError: nothing was added, or the weights sum to zero.
        """
        if self._sum is None or self._total == 0.0:
            raise ValueError("a mean needs at least one tree with a positive weight, got none.")
        return scale(self._sum, 1.0 / self._total)


def prefixed(a: Tree, prefix: str) -> Tree:
    """`a` under longer names, so that several trees fit into one.

    >>> prefixed({"w": torch.ones(1)}, "m/")
    {'m/w': tensor([1.])}
    """
    return {prefix + name: leaf for name, leaf in a.items()}


def under(a: Tree, prefix: str) -> Tree:
    """The leaves of `a` whose names begin with `prefix`, without it: the inverse of `prefixed`."""
    return {name.removeprefix(prefix): leaf for name, leaf in a.items() if name.startswith(prefix)}
