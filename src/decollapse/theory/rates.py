"""How fast every singular value of Pi grows: the theorem, and the flow it is about.

    loss = sum_n cross-entropy_n, summed over the examples;  dW_i / dt = - d loss / d W_i

    d sigma_k / dt = N L sigma_k^(2 - 2/L) sqrt(sigma_k^(2/L) + M) u_{L+1,k}^T G v_k
    G = 1/N sum_n (e_{y_n} - p_n) x_n^T  =~  sum_c mu_c (e_c - gamma_c) xbar_c^T

Shi, Liang, Zhang, Tan and Bai, "Towards Understanding and Mitigating Dimensional Collapse in Heterogeneous Federated
Learning", ICLR 2023, https://arxiv.org/abs/2210.00226. The deep-linear part goes back to Arora, Cohen, Hu and Luo,
"Implicit Regularization in Deep Matrix Factorization", NeurIPS 2019, https://arxiv.org/abs/1905.13655. What is written
here was derived and checked against finite differences; the root holds sigma^(2/L), not sigma^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from decollapse.theory.network import DeepLinear, balance, product

if TYPE_CHECKING:
    from jaxtyping import Float, Int

UNBALANCED = 1e-5
"""Error of the assumptions above which the theorem is refused. Rounding is 1e-15; `integrate` adds about half of its
tolerance by N t = 40."""


@dataclass(frozen=True, eq=False)
class Examples:
    """What one client holds.

    Attributes:
        x: inputs, float64.
        y: labels, 0 to num_classes - 1.
        num_classes: C of the whole federation, not of this client.

    Raises:
        ValueError: no examples, shapes that do not fit, or labels out of range.
    """

    x: Float[Tensor, "n inputs"]
    y: Int[Tensor, "n"]
    num_classes: int

    def __post_init__(self) -> None:
        if self.x.ndim != 2 or self.y.shape != self.x.shape[:1] or len(self.y) == 0:
            raise ValueError(
                f"examples are a matrix of at least one row and a label a row, got shapes {tuple(self.x.shape)} and "
                f"{tuple(self.y.shape)}."
            )
        if int(self.y.min()) < 0 or int(self.y.max()) >= self.num_classes:
            raise ValueError(f"labels must be 0 to {self.num_classes - 1}, got {sorted(set(self.y.tolist()))}.")

    def __len__(self) -> int:
        return len(self.y)

    @cached_property
    def one_hot(self) -> Float[Tensor, "classes n"]:
        """e_y of every example."""
        return torch.nn.functional.one_hot(self.y, self.num_classes).T.to(self.x)

    @cached_property
    def counts(self) -> Int[Tensor, "classes"]:
        """Examples of each class."""
        return torch.bincount(self.y, minlength=self.num_classes)


def exact_g(network: DeepLinear, examples: Examples) -> Float[Tensor, "classes inputs"]:
    """`1/N sum_n (e_{y_n} - p_n) x_n^T`, p_n the softmax output: minus the gradient of the mean loss by `W_{L+1} Pi`.

    Its columns sum to 0, so its rank is at most C - 1.
    """
    return _residuals(network, examples) @ examples.x / len(examples)


def class_mean_g(network: DeepLinear, examples: Examples) -> Float[Tensor, "classes inputs"]:
    """`sum_c mu_c (e_c - gamma_c) xbar_c^T`: what the theorem puts in place of `exact_g`.

    mu_c is the share of class c, gamma_c the mean softmax output and xbar_c the mean input of its examples. A class
    without examples adds nothing, so the rank is at most min(classes present, C - 1). Equal to `exact_g` where outputs
    do not vary within a class, as they hardly do at a small start.
    """
    means = examples.one_hot / examples.counts.clamp(min=1)[:, None]
    mu = examples.one_hot.mean(dim=1)
    return (_residuals(network, examples) @ means.T * mu) @ (means @ examples.x)


def velocity(network: DeepLinear, examples: Examples) -> tuple[Float[Tensor, "out in"], ...]:
    """`dW_i / dt = N (W_{L+1} ... W_{i+1})^T G (W_{i-1} ... W_1)^T`: minus the gradient of the summed cross-entropy."""
    return _push(network.weights, _residuals(network, examples) @ examples.x)


def predicted_rates(
    network: DeepLinear, G: Float[Tensor, "classes inputs"], *, num_examples: int
) -> Float[Tensor, "k"]:
    """`d sigma_k / dt` of every singular value of Pi by the theorem, largest sigma first.

        Pi = sum_k sigma_k u_k v_k^T;  u_{L+1,k} = W_{L+1} u_k / |W_{L+1} u_k|
        rate_k = N L sigma_k^(2 - 2/L) sqrt(sigma_k^(2/L) + M) u_{L+1,k}^T G v_k

    Exact with `exact_g`. Taking u_{L+1,k} through W_{L+1} settles its sign, which two separate SVDs would leave open.
    Where W_{L+1} u_k = 0 the rate is 0. Singular values that are equal have no derivative of their own.

    Raises:
        ValueError: the network does not satisfy the assumptions, see `balanced`.
    """
    found = balance(network)
    if found.error > UNBALANCED:
        raise ValueError(
            f"the theorem needs W_(i+1)^T W_(i+1) = W_i W_i^T for i < L and M I at the classifier, got a relative "
            f"error of {found.error:.1e}; start from `balanced`."
        )
    L = network.num_hidden
    u, sigma, vT = torch.linalg.svd(network.encoder, full_matrices=False)
    classifier_u = torch.nn.functional.normalize(network.classifier @ u, dim=0)
    factor = sigma ** (2 - 2 / L) * (sigma ** (2 / L) + found.M).clamp(min=0).sqrt()
    rates: Tensor = num_examples * L * factor * torch.einsum("ck,ci,ki->k", classifier_u, G, vT)
    return rates


def measured_rates(network: DeepLinear, examples: Examples, *, step: float = 3e-5) -> Float[Tensor, "k"]:
    """`d sigma_k / dt` of the true flow by finite differences, without the theorem or its assumptions.

        h = step * min_i |W_i| / |dW_i/dt|
        rate = (8 (sigma(h) - sigma(-h)) - (sigma(2h) - sigma(-2h))) / 12 h        sigma(t) of W_i + t dW_i/dt

    The tangent has the flow's own first derivative. The error is of order h^4, until rounding takes over.
    """
    moves = velocity(network, examples)
    h = step * min(float(w.norm() / dw.norm().clamp(min=1e-300)) for w, dw in zip(network.weights, moves, strict=True))

    def at(t: float) -> Tensor:
        return DeepLinear(tuple(w + t * dw for w, dw in zip(network.weights, moves, strict=True))).singular_values

    return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)


def _residuals(network: DeepLinear, examples: Examples) -> Float[Tensor, "classes n"]:
    """`e_y - p`. Classes come first because a softmax over columns took a fifth of the time of one over rows."""
    return examples.one_hot - (product(network.weights) @ examples.x.T).softmax(dim=0)


def _push(
    weights: tuple[Float[Tensor, "out in"], ...], NG: Float[Tensor, "classes inputs"]
) -> tuple[Float[Tensor, "out in"], ...]:
    """`(W_{L+1} ... W_{i+1})^T NG (W_{i-1} ... W_1)^T` for every i, by one pass from each side."""
    from_above = [NG]  # (W_{L+1} ... W_{i+1})^T NG, the classifier's first
    for weight in reversed(weights[1:]):
        from_above.append(weight.T @ from_above[-1])
    pushes = [from_above[-1]]
    below = weights[0]
    for weight, push in zip(weights[1:], reversed(from_above[:-1]), strict=True):
        pushes.append(push @ below.T)
        below = weight @ below
    return tuple(pushes)
