"""The guard and what clients send or keep beside their update."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from decollapse.core import Broadcast, ClientResult, ModelState
from decollapse.guard import UnusableUpdateError, guarded

BROADCAST = Broadcast(round=4, model=ModelState({"w": torch.zeros(2)}), seed=0)
GOOD = ClientResult(7, 10, 1, {"w": torch.ones(2)}, {}, {}, extras={"scaffold/w": torch.tensor([1.0, 2.0])})
NOT_A_NUMBER = replace(GOOD, extras={"scaffold/w": torch.tensor([1.0, torch.nan])})


def test_extras_that_are_finite_pass() -> None:
    assert guarded(GOOD, BROADCAST, "reject", state={"scaffold": {"w": torch.ones(2)}}) == (GOOD, None)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_non_finite_extra_is_rejected_by_name(value: float) -> None:
    kept, rejection = guarded(replace(GOOD, extras={"scaffold/w": torch.tensor([1.0, value])}), BROADCAST, "reject")
    assert kept is None
    assert rejection is not None
    assert rejection.reason == "'scaffold/w' has NaN or infinite values"


def test_abort_names_it() -> None:
    with pytest.raises(UnusableUpdateError, match="round 4, client 7: 'scaffold/w' has NaN"):
        guarded(NOT_A_NUMBER, BROADCAST, "abort")


def test_clip_leaves_no_non_finite_extra() -> None:
    kept, rejection = guarded(NOT_A_NUMBER, BROADCAST, "clip")
    assert kept is not None
    assert rejection is not None
    assert torch.isfinite(kept.extras["scaffold/w"]).all()
    assert kept.extras["scaffold/w"][1].item() == 0.0
    assert torch.equal(kept.delta["w"], GOOD.delta["w"])


def test_measurements_may_be_non_finite() -> None:
    measured = replace(GOOD, extras=GOOD.extras | {"measured/spectrum": torch.tensor([torch.nan])})
    assert guarded(measured, BROADCAST, "reject") == (measured, None)


@pytest.mark.parametrize("policy", ["reject", "clip"])
def test_a_non_finite_state_is_named_with_its_term(policy: str) -> None:
    state = {"moon": {"w": torch.ones(2)}, "scaffold": {"w": torch.tensor([torch.inf, 0.0])}}
    _, rejection = guarded(GOOD, BROADCAST, policy, state=state)  # type: ignore[arg-type]  # parametrised
    assert rejection is not None
    assert rejection.reason.startswith("'w' of scaffold has NaN or infinite values")


def test_the_norm_of_a_clipped_update_is_its_own() -> None:
    result = replace(GOOD, delta={"w": torch.tensor([3.0, torch.nan])})
    assert result.squared_norm != result.squared_norm
    kept, _ = guarded(result, BROADCAST, "clip")
    assert kept is not None
    assert kept.squared_norm == 9.0
