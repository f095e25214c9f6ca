"""MOON: pull a client's features towards the global model's and away from its own last local model's.

Qinbin Li, Bingsheng He, Dawn Song, "Model-Contrastive Federated Learning", CVPR 2021,
https://arxiv.org/abs/2103.16257. Authors' code: https://github.com/QinbinLi/MOON.

    L = -log[ exp(cos(z, z_global) / T) / (exp(cos(z, z_global) / T) + exp(cos(z, z_previous) / T)) ]

z is the classifier's input. In MOON that is the output of a projection head, a small MLP behind the encoder. The head
belongs to the model, not to this term: without one this is MOON on plain features, and with mu = 0 it is FedAvg on the
same model, head included.

Departures. The authors keep a list of previous models, of one by default; here it is one. A client that never trained
has no previous model: here the anchor takes its place, and L is log 2 without a gradient. The authors' code leaves L
out in the first round of a run, and contrasts a client that joins later with its untrained network: the same gradients
if every client takes part in the first round. FedDecorr's release (https://github.com/bytedance/FedDecorr) draws an
untrained network for each client, and contrasts with it from the first round on. It reads a temperature and does not
use it: to repeat it, set temperature = 1. A vector shorter than 1e-8 has no direction: its cosines, and their
gradients, are 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn import functional as F

from decollapse.core import ModelState
from decollapse.terms.ranges import check_positive, check_strength

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from decollapse.objective import Step, Trained
    from decollapse.tree import Tree


def model_contrastive_loss(
    features: Float[Tensor, "n d"],
    *,
    global_features: Float[Tensor, "n d"],
    previous_features: Float[Tensor, "n d"],
    temperature: float = 0.5,
) -> Float[Tensor, ""]:
    """Mean over the batch of `log(1 + exp((cos(z, z_previous) - cos(z, z_global)) / temperature))`.

    From log(1 + exp(-2 / temperature)), at the global model's direction and opposite to the previous one's, to
    log(1 + exp(2 / temperature)). Only `features` get a gradient; where both models agree, exactly none.

    Args:
        features: of the model in training.
        global_features: of the model the server sent, on the same examples.
        previous_features: of the client's last local model, on the same examples.
        temperature: > 0; the smaller, the more the examples count that are nearer to the previous model.

    >>> z = torch.tensor([[2.0, 0.0]])
    >>> model_contrastive_loss(z, global_features=z, previous_features=torch.tensor([[0.0, 1.0]]))
    tensor(0.1269)
    """
    contrast = _directions(previous_features.detach()) - _directions(global_features.detach())
    return F.softplus((_directions(features) * contrast).sum(dim=1) / temperature).mean()


@dataclass(frozen=True)
class MOON:
    """Keeps the client's features near the global model's: `mu * model_contrastive_loss`.

    A client keeps its last local model, weights and buffers, between rounds. A step costs two more forward passes.

    Attributes:
        mu: strength, >= 0 and finite; 0 is FedAvg and keeps no model. The authors' default is 1.
        temperature: > 0 and finite.
        layers: names in `model.named_modules()` whose activations are used, or "features"; empty for the features.
    """

    name: ClassVar[str] = "moon"
    mu: float = 1.0
    temperature: float = 0.5
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_strength(mu=self.mu)
        check_positive(temperature=self.temperature)

    def init_state(self, anchor: ModelState) -> Tree:
        """The anchor stands in for the model that a new client does not have yet."""
        return {} if self.mu == 0.0 else {name: leaf.clone() for name, leaf in (anchor.params | anchor.buffers).items()}

    def next_state(self, state: Tree, trained: Trained) -> Tree:
        """The model after local training."""
        return {} if self.mu == 0.0 else trained.local.params | trained.local.buffers

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The loss of this batch."""
        if self.mu == 0.0:
            return step.output.features.new_zeros(())
        # frozen() loads by name and remembers by the tree it was given: buffers may come with the parameters.
        previous = step.frozen(ModelState(step.state))
        outputs = (step.output, step.frozen(step.anchor), previous)
        losses = [
            model_contrastive_loss(z, global_features=g, previous_features=p, temperature=self.temperature)
            for z, g, p in zip(*(output.at(self.layers) for output in outputs), strict=True)
        ]
        return self.mu * torch.stack(losses).mean()


def _directions(features: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / norm.where(norm > 1e-8, torch.inf)
