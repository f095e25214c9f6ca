"""Client calls as tables and tensors: nothing that runs is sent, only which of these calls, and its settings.

A call is a frozen dataclass of this package, so its table is what a recipe would say of it. Both sides import the class
itself; the components that its settings name are those of the catalogue, or import paths into the app.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from decollapse.buffers import Recalibrate
from decollapse.client import ClientUpdate
from decollapse.compression import SendFloat16
from decollapse.core import Broadcast, ClientCall, ClientData, ClientResult, ClientState
from decollapse.diagnosis.local import MeasureLocalModel, Probe
from decollapse.diagnosis.measure_features import MeasureFeatures
from decollapse.held_out import EvaluateModel
from decollapse.schema import Table, build, unbuild
from decollapse.tree import Tree

CALLS: dict[str, type] = {
    "client_update": ClientUpdate,
    "recalibrate": Recalibrate,
    "measure_features": MeasureFeatures,
    "evaluate_model": EvaluateModel,
}
"""Calls that are their settings."""
MEASURED = "measure_local_model"
"""The call around a call, which has examples, too."""
FLOAT16 = "send_float16"
"""The call around a call whose update is sent in half the bytes."""
NAMES = {call: name for name, call in CALLS.items()}


class UnknownCallError(ValueError):
    """A call that cannot be sent, or that the other side does not know."""


def described(call: ClientCall) -> tuple[Table, Tree]:
    """A call as a table and the tensors that go with it.

    Raises:
        UnknownCallError: there is no description of such a call.

    >>> described(Recalibrate(batch_size=64))
    ({'call': 'recalibrate', 'settings': {'batch_size': 64}}, {})
    """
    if isinstance(call, MeasureLocalModel):
        inner, _ = described(call.train)
        settings = {"train": inner, "num_classes": call.probe.num_classes}
        return {"call": MEASURED, "settings": settings}, {"x": call.probe.x, "y": call.probe.y}
    if isinstance(call, SendFloat16):
        inner, tensors = described(call.train)
        return {"call": FLOAT16, "settings": {"train": inner}}, tensors
    name = NAMES.get(type(call))
    if name is None:
        raise UnknownCallError(
            f"{type(call).__name__} cannot be sent to the clients of a federation; there is {_known()}."
        )
    return {"call": name, "settings": unbuild(call, None)}, {}


def from_description(table: Table, tensors: Tree, preprocess: Callable[[Tensor], Tensor]) -> ClientCall:
    """The call that was described.

    Args:
        table: which, with its settings.
        tensors: what goes with it.
        preprocess: of the client's data, for the examples among the tensors.

    Raises:
        UnknownCallError: the description is of a call that this version does not know.
        RecipeError: a setting of it is unknown or out of range.
    """
    name, settings = table.get("call"), table.get("settings")
    if not isinstance(settings, dict) or name not in {*CALLS, MEASURED, FLOAT16}:
        raise UnknownCallError(
            f"the server asks for {name!r}, this client knows {_known()}; both sides need one version of decollapse."
        )
    if name == MEASURED:
        probe = Probe(tensors["x"], tensors["y"], settings["num_classes"], preprocess)
        return MeasureLocalModel(from_description(settings["train"], {}, preprocess), probe)
    if name == FLOAT16:
        return SendFloat16(from_description(settings["train"], tensors, preprocess))
    call: Any = build(CALLS[name], settings, "client" if name == "client_update" else name)
    return call  # type: ignore[no-any-return]  # every class of CALLS is a ClientCall


@dataclass(frozen=True, eq=False)
class DescribedCall:
    """The call that was described, built where its data are. Raises as `from_description`, when it is called.

    Attributes:
        table: which, with its settings.
        tensors: what goes with it.
    """

    table: Table
    tensors: Tree

    def __call__(
        self, model: nn.Module, data: ClientData, broadcast: Broadcast, state: ClientState
    ) -> tuple[ClientResult, ClientState]:
        """Build it for these data, and call it."""
        return from_description(self.table, self.tensors, data.preprocess)(model, data, broadcast, state)


def _known() -> str:
    return ", ".join([*CALLS, MEASURED, FLOAT16])
