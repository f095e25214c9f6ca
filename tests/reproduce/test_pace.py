from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_table import TINY

from decollapse.client import ClientUpdate
from decollapse.config import load_recipe
from decollapse.experiment import Experiment
from decollapse.measurements import EvaluationSettings
from decollapse.reproduce.pace import Pace, _line, makespan, measured_pace

PACE = Pace(start=1.0, first=0.1, step=2.0, example=0.01, forward=0.001, spectrum=3.0, process=50.0)
EXPERIMENT = Experiment(
    num_clients=2,
    rounds=4,
    client=ClientUpdate(epochs=3, batch_size=10),
    evaluation=EvaluationSettings(every=2, local_every=4, probe_size=20),
)
SIZES = np.array([5, 25])


def test_a_client_takes_its_steps_and_its_examples() -> None:
    seconds = PACE.client(SIZES, epochs=3, batch_size=10)
    assert seconds.tolist() == pytest.approx([1 + 0.5 + 3 * (2 + 0.05), 1 + 2.5 + 3 * (6 + 0.25)])


def test_a_run_is_its_rounds_evaluations_and_diagnoses() -> None:
    trained = 4 * (7.65 + 22.25)
    evaluated = 3 * (100 * 0.001 + 3.0)  # rounds 0, 2, 4
    diagnosed = 1 * (2 + 1) * (20 * 0.001 + 3.0)  # round 4: two clients and their average
    assert PACE.run(EXPERIMENT, SIZES, 100, done=None) == pytest.approx(50 + trained + evaluated + diagnosed)


def test_rounds_that_are_done_take_no_time() -> None:
    left = 1 * (7.65 + 22.25) + 1 * 3.1 + 3 * 3.02
    assert PACE.run(EXPERIMENT, SIZES, 100, done=3) == pytest.approx(50 + left)


def test_a_cohort_is_its_share_of_all_clients() -> None:
    half = replace(EXPERIMENT, cohort_size=1, evaluation=EvaluationSettings(every=4, local_every=0))
    assert PACE.run(half, SIZES, 100, done=0) == pytest.approx(50 + 4 * (7.65 + 22.25) / 2 + 3.1)


def test_pieces_of_work_are_begun_in_order_where_there_is_room() -> None:
    assert makespan([1.0, 5.0, 2.0, 2.0], at_once=2) == 5.0  # 1 + 2 + 2 beside 5
    assert makespan([4.0, 5.0], at_once=1) == 9.0
    assert makespan([], at_once=2) == 0.0


def test_noise_makes_no_time_negative() -> None:
    assert _line((10, 20), (3.0, 5.0)) == pytest.approx((1.0, 0.2))
    assert _line((10, 20), (5.0, 3.0)) == (3.0, 0.0)
    assert _line((10, 20), (1.0, 4.0)) == (0.0, 0.2)
    assert _line((10, 20), (1.0, -4.0)) == (0.0, 0.0)


def test_a_measured_pace_is_of_the_very_experiment(tiny_data: Path) -> None:
    settings = [f"data.name=npz:{tiny_data}", "engine=serial", "algorithm=moon", *TINY]
    experiment = load_recipe(None, settings)
    pace = measured_pace(experiment, experiment.data.load())
    assert pace.step + pace.example > 0
    assert pace.forward > 0
    assert pace.client(np.array([40]), epochs=1, batch_size=64)[0] < 5
