"""The calibrated cross-entropy of FedLC.

Zhang, Li, Li, Xu, Wu, Ding, Wu, "Federated Learning with Label Distribution Skew via Logits Calibration", ICML 2022,
https://arxiv.org/abs/2209.00189. With logits s and n_c examples of class c on this client:

    t_c = s_c - tau n_c^(-1/4)
    L   = mean of -log( exp(t_y) / sum_c exp(t_c) )           c over all classes, or over all but y

A rare class starts behind and has to win by a larger margin. The margin is for training; evaluate with s.

Limit and departure. As n_c goes to 0 its margin becomes infinite: an absent class leaves the softmax and its gradient
is exactly 0, as in the releases of FedDecorr and FedVLS. Others put a small number in the place of 0, and with it a
finite margin. The full sum, our default, is what these releases compute. The sum without y we believe to be the
paper's, but could not compare with its text; it has no lower bound, as the pull on the true logit never fades.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import torch
from torch.nn import functional as F

from decollapse.terms.ranges import check_choice, check_strength

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from decollapse.objective import Step

Denominator = Literal["all", "others"]


def logit_calibration_loss(
    logits: Float[Tensor, "n classes"],
    y: Int[Tensor, "n"],
    class_counts: Int[Tensor, "classes"],
    *,
    tau: float,
    denominator: Denominator = "all",
) -> Float[Tensor, ""]:
    """Mean cross-entropy with a margin that is larger the rarer a class is on this client.

    Args:
        logits: of the local model.
        y: the labels; one of a class that the client does not have makes the loss infinite.
        class_counts: how many training examples of each class the client holds.
        tau: the margin of a class with one example, >= 0. With 0 absent classes stay, and "all" is the plain loss.
        denominator: "all" sums over all classes, "others" leaves the true one out; without other classes that is 0.

    Raises:
        ValueError: an unknown denominator.

    >>> logit_calibration_loss(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([16, 1]), tau=1.0)
    tensor(0.4741)
    """
    check_choice("denominator", denominator, get_args(Denominator))
    calibrated = logits - tau * class_counts.to(logits).pow(-0.25) if tau > 0 else logits
    if denominator == "all":
        return F.cross_entropy(calibrated, y)
    true = y[:, None]
    rivals = calibrated.scatter(1, true, -math.inf)
    # The gradient of a sum over no rival is NaN, even where its value is not used.
    has_rival = (rivals > -math.inf).any(dim=1)
    total = torch.where(has_rival[:, None], rivals, 0).logsumexp(dim=1)
    return torch.where(has_rival, total - calibrated.gather(1, true).squeeze(1), 0).mean()


@dataclass(frozen=True)
class LogitCalibration:
    """Asks for a larger margin where a client has fewer examples: `cross_entropy(logits - tau n^(-1/4), y)`.

    It takes the place of cross-entropy in an objective.

    Attributes:
        tau: the margin of a class with one example, >= 0 and finite; 0 is cross-entropy. The releases of FedDecorr and
            FedVLS have 0.1.
        denominator: the classes of the softmax, "all" or the "others", without the true one.
    """

    name: ClassVar[str] = "logit_calibration"
    tau: float = 1.0
    denominator: Denominator = "all"

    def __post_init__(self) -> None:
        check_strength(tau=self.tau)
        check_choice("denominator", self.denominator, get_args(Denominator))

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The loss of this batch."""
        return logit_calibration_loss(
            step.output.logits, step.y, step.data.class_counts, tau=self.tau, denominator=self.denominator
        )
