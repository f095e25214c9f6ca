"""Which run goes where, and which is left out."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from tiny_study import IID, MakeView, dirichlet

from decollapse.figures.panels import ALPHA, panels_of, usable, without_locals
from decollapse.report.eigenvalues import GlobalSpectra


def test_a_panel_is_an_algorithm_and_a_curve_a_partition_the_most_unequal_first(make_view: MakeView) -> None:
    runs = [
        make_view(partition, beta=beta, seed=seed)
        for seed in (1, 0)
        for partition in (IID, dirichlet(0.5), dirichlet(0.05))
        for beta in (None, 0.1)
    ]
    panels = panels_of(runs)
    assert [panel.title for panel in panels] == ["FedAvg", "FedAvg + FedDecorr 0.1"]
    for panel in panels:
        assert [curve.name for curve in panel.curves] == [f"{ALPHA} = 0.05", f"{ALPHA} = 0.5", "IID"]
        assert [[run.seed for run in curve.runs] for curve in panel.curves] == [[0, 1]] * 3


def test_a_partition_has_its_colour_in_every_panel_that_shows_it(make_view: MakeView) -> None:
    runs = [make_view(dirichlet(0.05)), make_view(IID), make_view(IID, beta=0.1)]
    first, second = panels_of(runs)
    assert [(curve.name, curve.index) for curve in first.curves] == [(f"{ALPHA} = 0.05", 0), ("IID", 1)]
    assert [(curve.name, curve.index) for curve in second.curves] == [("IID", 1)]


def test_runs_on_one_partition_share_a_panel(make_view: MakeView) -> None:
    (panel,) = panels_of([make_view(IID, beta=beta) for beta in (None, 0.01, 0.1)])
    assert [curve.name for curve in panel.curves] == ["FedAvg", "FedAvg + FedDecorr 0.01", "FedAvg + FedDecorr 0.1"]
    assert [curve.index for curve in panel.curves] == [0, 1, 2]


def test_partitions_of_one_alpha_are_told_apart(make_view: MakeView) -> None:
    plain = {"name": "plain_dirichlet", "alpha": 0.05}
    (panel,) = panels_of([make_view(dirichlet(0.05)), make_view(plain), make_view(IID)])
    names = [curve.name for curve in panel.curves]
    assert len(set(names)) == 3
    assert names[2] == "IID"
    assert "plain Dirichlet" in names[1]


def test_an_unfinished_a_diverged_and_an_unmeasured_run_are_left_out_with_a_reason(make_view: MakeView) -> None:
    good = make_view(IID)
    stale = replace(good, spectra=GlobalSpectra(1, np.ones(2), np.ones(2)))
    bad = [make_view(IID, last=1), make_view(IID, loss=math.nan), make_view(IID, spectrum=None), stale]
    kept, notes = usable([good, *bad])
    assert kept == [good]
    reasons = ["unfinished, 1 of 2 rounds", "diverged", "no spectrum", "no spectrum"]
    assert len(notes) == 4
    assert all(reason in note for reason, note in zip(reasons, notes, strict=True))


def test_a_run_without_local_spectra_of_its_last_round_is_named(make_view: MakeView) -> None:
    runs = [make_view(IID, seed=0, local=[[1.0, 0.5]]), make_view(IID, seed=1)]
    (note,) = without_locals(panels_of(runs))
    assert str(runs[1].folder) in note
    assert "evaluation.local_every=1" in note
