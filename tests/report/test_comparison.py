from __future__ import annotations

import csv
import io
import json
from typing import get_args

import pytest

from decollapse.cli.results import Metric
from decollapse.report import group_runs, read_run
from decollapse.report.comparison import METRICS, Comparison

ACCURACIES = {None: (0.50, 0.60, 0.40), 0.1: (0.53, 0.62, 0.41)}


def groups_of(write_run, betas=(None, 0.1)):
    def change(value: float):
        return lambda record: {**record, "evaluation": {"accuracy": value, "loss": 1 - value}}

    return group_runs(
        [
            read_run(write_run(f"{beta}-{seed}", beta=beta, seed=seed, change=change(value)))
            for beta in betas
            for seed, value in enumerate(ACCURACIES[beta])
        ]
    )


@pytest.fixture
def comparison(write_run) -> Comparison:
    """FedAvg and FedAvg + FedDecorr 0.1, whose accuracies differ by 3, 2 and 1 points."""
    return Comparison.of(groups_of(write_run), METRICS["accuracy"])


def test_text_has_a_table_of_settings_and_one_of_pairs(comparison: Comparison) -> None:
    summary, pairs = comparison.tables()
    assert [row[0].text for row in summary.rows] == ["FedAvg", "FedAvg + FedDecorr 0.1"]
    assert [[cell.text for cell in row] for row in pairs.rows] == [
        # 2 +- 4.303 * 1 / sqrt(3), and t = 2 sqrt(3) with two degrees of freedom
        ["FedAvg + FedDecorr 0.1", "FedAvg", "+2.0", "\N{MINUS SIGN}0.5 to +4.5", "3 of 3", "0.074", "0.25"]
    ]
    assert [heading.title for heading in pairs.headings[2:5]] == ["Δ accuracy (points)", "95 % interval", "wins"]


@pytest.mark.parametrize(("form", "rule"), [("text", "────"), ("markdown", "|:---"), ("latex", "\\midrule")])
def test_people_get_both_tables_in_every_format(comparison: Comparison, form, rule: str) -> None:
    text = comparison.written(form)
    assert sum(rule in line for line in text.splitlines()) == 2
    assert "+2.0" in text


def test_csv_is_one_table_with_every_number(comparison: Comparison) -> None:
    plain, ours = csv.DictReader(io.StringIO(comparison.written("csv")))
    assert float(ours["accuracy_mean"]) == pytest.approx(52.0)
    assert float(plain["accuracy_std"]) == pytest.approx(10.0)
    assert {f"{key}_mean" for key in METRICS} <= ours.keys()
    assert float(ours["difference_mean"]) == pytest.approx(2.0)
    assert float(ours["interval_low"]) == pytest.approx(2 - 4.302652730 / 3**0.5)
    assert (ours["setting"], ours["against"], ours["wins"], ours["wins_losses"]) == (
        "FedAvg + FedDecorr 0.1", "FedAvg", "3", "0",
    )  # fmt: skip
    assert {plain[key] for key in ("against", "difference_mean", "wins", "p_value")} == {""}


def test_json_has_the_pairs_beside_what_it_always_had(comparison: Comparison) -> None:
    plain, ours = json.loads(comparison.written("json"))
    assert plain["paired"] is None
    assert plain["values"]["accuracy"] == {"mean": pytest.approx(50), "std": pytest.approx(10), "num": 3}
    assert ours["paired"] == {
        "metric": "accuracy",
        "baseline": "FedAvg",
        "seeds": [0, 1, 2],
        "mean": pytest.approx(2),
        "std": pytest.approx(1),
        "interval": pytest.approx([-0.484, 4.484], abs=1e-3),
        "confidence": 0.95,
        "p_value": pytest.approx(0.0742, abs=1e-4),
        "p_sign_flip": 0.25,
        "wins": 3,
        "ties": 0,
        "losses": 0,
    }


def test_where_nothing_can_be_paired_there_is_one_table(write_run) -> None:
    alone = Comparison.of(groups_of(write_run, betas=(None,)), METRICS["accuracy"])
    assert len(alone.tables()) == 1
    assert "difference" not in alone.written("csv")


def test_one_seed_shows_a_difference_a_dash_and_the_reason(write_run) -> None:
    folders = [write_run(str(beta), beta=beta) for beta in (None, 0.1)]
    _, pairs = Comparison.of(group_runs([read_run(folder) for folder in folders]), METRICS["effective_rank"]).tables()
    assert [cell.text for cell in pairs.rows[0][3:6]] == ["\N{EN DASH}", "1 of 1", "\N{EN DASH}"]
    assert "gives no interval; run more seeds" in pairs.notes[0]


def test_the_command_line_knows_every_metric() -> None:
    assert get_args(Metric) == tuple(METRICS)
