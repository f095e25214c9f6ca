"""The tables of a report that say what runs cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from decollapse.report.details import times
from decollapse.report.summary import Group
from decollapse.report.view import RunView


def run(name: str, *traffic: dict[str, int] | None) -> RunView:
    records: list[dict[str, Any]] = [
        {"round": round, "seconds": {"total": 1.0, "clients": 0.5, "evaluation": 0.25}, "traffic": sent}
        for round, sent in enumerate(traffic)
    ]
    return RunView(Path(name), {"recipe": {"rounds": 2}}, tuple(records), None, None)


def test_what_a_round_sent_is_a_mean_over_the_rounds_that_sent_anything() -> None:
    sent = run(
        "a", None, {"to_clients": 3_000_000, "from_clients": 10_000}, {"to_clients": 1_000_000, "from_clients": 30_000}
    )
    page = times([Group("one", (sent, run("b", None, None)))])
    assert "MB a round to clients" in page
    assert "<td>2.00</td>" in page
    assert "<td>0.02</td>" in page


def test_runs_on_one_machine_have_no_column_of_bytes() -> None:
    assert "MB a round" not in times([Group("one", (run("a", None, None),))])
