"""The rules: cases whose truth is known because they are built that way, borders, and runs whose truth is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from decollapse.core import ModelState, Output
from decollapse.diagnosis.attribution import feature_rank
from decollapse.diagnosis.local import FEATURES, SKETCH, Probe
from decollapse.diagnosis.round import RoundDiagnosis, diagnose_round
from decollapse.diagnosis.verdict import ENOUGH, ENOUGH_LOCALLY, REMEDIES, Cause, Evidence, judge
from decollapse.spectrum import effective_rank

CIFAR10 = Path(__file__).resolve().parents[2] / "docs" / "results" / "cifar10"
COLLAPSES = {"collapse", "local_training", "averaging"}


def diagnose(averaged: Tensor, local: list[Tensor], y: Tensor) -> RoundDiagnosis:
    """The verdict as a run has it: from features, through every function in between."""
    num_classes = int(y.max()) + 1
    measured = {client: {FEATURES: z, SKETCH: torch.ones(1)} for client, z in enumerate(local)}
    output = Output(torch.zeros(len(y), num_classes), averaged)
    counts = dict.fromkeys(measured, 1)
    found = diagnose_round(output, ModelState({}), measured, counts, Probe(y, y, num_classes, torch.Tensor.float))
    assert found is not None
    return found


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels(n: int, num_classes: int) -> Tensor:
    return torch.arange(n) % num_classes


X, Y = gaussian(1000, 40), labels(1000, 10)


def linear_nets(weights: list[Tensor], x: Tensor = X) -> tuple[Tensor, list[Tensor]]:
    """Features of linear networks Z = X W, and those of the network with their mean weights."""
    return x @ torch.stack(weights).mean(0), [x @ w for w in weights]


# Cases by construction


def test_local_models_confined_to_the_same_few_directions_are_a_collapse_in_local_training() -> None:
    shared = gaussian(40, 3)
    averaged, local = linear_nets([shared @ gaussian(3, 64, seed=seed) for seed in range(10)])
    found = diagnose(averaged, local, Y)
    assert max(found.attribution.covariance.local) <= 3.0 + 1e-6
    assert found.verdict.cause == "local_training"
    assert "Local training collapses the features." in found.verdict.sentence
    assert "feddecorr" in found.verdict.remedy


def test_local_models_confined_to_different_directions_are_one_too_though_averaging_brings_them_back() -> None:
    averaged, local = linear_nets([gaussian(40, 2, seed=s) @ gaussian(2, 64, seed=50 + s) for s in range(10)])
    found = diagnose(averaged, local, Y)
    assert found.attribution.covariance.averaged > 9
    assert found.verdict.cause == "local_training"
    assert found.verdict.sentence.endswith("Averaging brings back what the local models lost.")


def test_networks_that_differ_by_the_signs_of_their_units_collapse_when_they_are_averaged() -> None:
    common, own = gaussian(40, 1) @ gaussian(1, 64, seed=1), gaussian(40, 64, seed=2)
    averaged, local = linear_nets([common + sign * own for sign in (1, -1) * 5])
    found = diagnose(averaged, local, Y)
    assert found.attribution.covariance.averaged == pytest.approx(1.0, abs=1e-3)
    assert min(found.attribution.covariance.local) > 9
    assert found.verdict.cause == "averaging"
    assert "Side by side, the local models' features use" in found.verdict.sentence


def test_networks_that_differ_by_the_order_of_their_units_collapse_when_they_are_averaged() -> None:
    # Each is as good as any other, and the mean of a unit over random orders is nearly the same for all units.
    net = 1.5 * gaussian(40, 1) + gaussian(40, 24, seed=1)
    orders = [torch.randperm(24, generator=torch.Generator().manual_seed(seed)) for seed in range(20)]
    found = diagnose(*linear_nets([net[:, order] for order in orders]), Y)
    ranks = found.attribution.covariance
    assert max(ranks.local) - min(ranks.local) < 1e-6
    assert found.verdict.cause == "averaging"


def test_where_both_lose_the_larger_loss_is_named() -> None:
    shared = gaussian(40, 5)
    own = [shared @ gaussian(5, 64, seed=seed) for seed in range(5)]
    common = gaussian(40, 1, seed=9) @ gaussian(1, 64, seed=10)
    # Ranks of about 5 become 1: a factor of 5 by averaging, of 9 / 5 by training.
    found = diagnose(*linear_nets([common + sign * w for w in own for sign in (1, -1)]), Y)
    assert ENOUGH_LOCALLY * 9 < found.evidence.local_rank < ENOUGH * 9
    assert found.verdict.cause == "averaging"


@pytest.mark.parametrize(("bias", "cause"), [(-100.0, "dead_units"), (0.0, "no_collapse")])
def test_relu_units_with_large_negative_biases_are_dead(bias: float, cause: Cause) -> None:
    biases = torch.zeros(64)
    biases[:30] = bias
    features = torch.relu(X @ gaussian(40, 64) + biases)
    found = diagnose(features, [features, features], Y)
    assert found.verdict.cause == cause
    if cause == "dead_units":
        assert found.evidence.num_dead == 30
        assert found.verdict.sentence.startswith(
            "30 of 64 dimensions are dead: the same for every example. The averaged"
        )


def simplex_features(num_classes: int, d: int, *, n: int = 1000, noise: float = 0.05, seed: int = 0) -> Tensor:
    means = (torch.eye(num_classes) - 1 / num_classes) @ torch.linalg.qr(gaussian(d, num_classes, seed=1)).Q.T
    return means[labels(n, num_classes)] + noise / d**0.5 * gaussian(n, d, seed=seed)


@pytest.mark.parametrize("num_classes", [2, 3, 5, 10])
def test_complete_neural_collapse_is_no_collapse_but_what_few_classes_need(num_classes: int) -> None:
    features = simplex_features(num_classes, 64)
    found = diagnose(features, [features, simplex_features(num_classes, 64, seed=1)], labels(1000, num_classes))
    assert found.evidence.averaged_rank == pytest.approx(num_classes - 1, rel=0.1)
    assert found.verdict.cause == "few_classes"
    assert found.verdict.sentence.startswith("No collapse. The averaged model uses")


def test_three_classes_on_a_line_are_a_collapse() -> None:
    y = labels(1000, 3)
    features = torch.tensor([-1.0, 0.0, 1.0])[y, None] * gaussian(1, 64) + 0.01 * gaussian(1000, 64, seed=1)
    assert diagnose(features, [features], y).verdict.cause == "local_training"


def test_wide_healthy_features_are_no_collapse() -> None:
    features = simplex_features(10, 256) + 0.1 * gaussian(1000, 256, seed=5)
    found = diagnose(features, [features + 0.01 * gaussian(1000, 256, seed=s) for s in range(4)], Y)
    assert found.evidence.averaged_rank > 40
    assert found.verdict == judge(found.evidence)
    assert found.verdict.cause == "no_collapse"
    assert found.verdict.remedy == "Nothing to repair."


def test_untrained_relu_features_of_rich_inputs_are_no_collapse() -> None:
    features = torch.relu(X @ gaussian(40, 128))
    assert diagnose(features, [features], Y).verdict.cause == "no_collapse"


@pytest.mark.parametrize("n", [12, 40, 99])
def test_of_few_examples_nothing_is_said(n: int) -> None:
    wide, narrow = gaussian(n, 64), gaussian(n, 2) @ gaussian(2, 64, seed=1)
    for features in (wide, narrow):
        found = diagnose(features, [features], labels(n, 10))
        assert found.verdict.cause == "too_few_examples"
        assert found.verdict.sentence == (
            f"{n} examples of 10 classes are too few to tell: 100 examples of at least 2 classes are needed."
        )


def test_of_one_class_nothing_is_said() -> None:
    found = diagnose(X, [X], torch.zeros(1000, dtype=torch.int64))
    assert found.verdict.cause == "too_few_examples"
    assert found.verdict.sentence.startswith("1000 examples of 1 class are too few to tell")
    assert found.neural_collapse is None


def test_against_a_reference_a_rank_that_ten_classes_would_do_with_can_be_a_collapse() -> None:
    healthy, found = X @ gaussian(40, 64), diagnose(*linear_nets([gaussian(40, 12) @ gaussian(12, 64, seed=1)] * 3), Y)
    assert found.verdict.cause == "few_classes"
    against = judge(replace(found.evidence, reference_rank=feature_rank(healthy)))
    assert against.cause == "local_training"
    assert "the reference run uses 2" in against.sentence
    assert "expected" not in against.sentence


# What a researcher meets: many classes, two classes, narrow features, no local model


@pytest.mark.parametrize("num_classes", [100, 200])
def test_with_many_classes_the_default_probe_is_enough_and_a_clear_collapse_is_found(num_classes: int) -> None:
    y = labels(1000, num_classes)
    found = diagnose(*linear_nets([gaussian(40, 3) @ gaussian(3, 512, seed=1)] * 2), y)
    assert found.verdict.cause == "local_training"
    assert f"at least 9 are expected of {num_classes} classes" in found.verdict.sentence


@pytest.mark.parametrize(
    ("num_classes", "rank", "cause"),
    [(100, 20.0, "no_collapse"), (100, 69.0, "no_collapse"), (100, 70.0, "few_classes"), (200, 150.0, "few_classes")],
)
def test_few_classes_is_said_only_of_about_as_many_dimensions_as_classes_span(
    num_classes: int, rank: float, cause: Cause
) -> None:
    assert judge(Evidence(1000, 512, num_classes, 0, rank)).cause == cause


def test_a_rank_that_may_be_low_for_many_classes_is_not_called_enough() -> None:
    sentence = judge(Evidence(1000, 512, 100, 0, 20.0)).sentence
    assert sentence.endswith("With 100 classes up to 99 can be of use: only a healthy run to compare with can tell.")
    assert "only a healthy run" not in judge(Evidence(1000, 512, 10, 0, 20.0)).sentence
    assert "only a healthy run" not in judge(Evidence(1000, 512, 100, 0, 20.0, reference_rank=22.0)).sentence


@pytest.mark.parametrize(("rank", "cause"), [(0.0, "collapse"), (1.0, "few_classes"), (7.0, "no_collapse")])
def test_two_classes_need_one_dimension(rank: float, cause: Cause) -> None:
    assert judge(Evidence(1000, 512, 2, 0, rank)).cause == cause


@pytest.mark.parametrize(
    ("num_classes", "rank", "cause"),
    [
        (10, 6.2, "collapse"),
        (10, 6.3, "few_classes"),
        (10, 8.0, "no_collapse"),
        (100, 6.2, "collapse"),
        (100, 11.3, "no_collapse"),
    ],
)
def test_sixteen_dimensions(num_classes: int, rank: float, cause: Cause) -> None:
    assert judge(Evidence(1000, 16, num_classes, 0, rank)).cause == cause


@pytest.mark.parametrize(("rank", "cause"), [(1.2, "collapse"), (1.9, "no_collapse")])
def test_fewer_dimensions_than_classes_are_asked_for_no_more_than_there_are(rank: float, cause: Cause) -> None:
    assert judge(Evidence(1000, 2, 10, 0, rank)).cause == cause


def test_without_local_models_no_cause_is_made_up() -> None:
    verdict = judge(Evidence(1000, 64, 10, 0, averaged_rank=2.0))
    assert verdict.cause == "collapse"
    assert verdict.sentence.endswith("No local model was measured to tell why.")
    assert "local_every=1" in verdict.remedy


def test_constant_features_are_dead() -> None:
    features = torch.full((1000, 8), 0.1)
    assert diagnose(features, [features], Y).verdict.cause == "dead_units"


def test_every_cause_has_a_remedy_of_one_or_two_sentences() -> None:
    assert all(remedy.endswith(".") and len(remedy) < 200 for remedy in REMEDIES.values())


# Borders and order


@st.composite
def evidence(draw: st.DrawFn, *, decided: bool = False) -> Evidence:
    """Anything; or, decided, with many examples, several classes and few dead dimensions."""
    d = draw(st.integers(1, 600))
    ranks = st.floats(0.0, d) | st.floats(0.0, min(d, 10))
    return Evidence(
        num_examples=draw(st.integers(1300 if decided else 2, 3000)),
        num_features=d,
        num_classes=draw(st.integers(3 if decided else 1, 250)),
        num_dead=draw(st.integers(0, d // 10 if decided else d)),
        averaged_rank=draw(ranks),
        local_ranks=tuple(draw(st.lists(ranks, max_size=6))),
        reference_rank=draw(st.none() | st.floats(0.0, d)),
    )


@settings(max_examples=300, deadline=None)
@given(evidence(decided=True), st.floats(0.0, 100.0), st.floats(0.0, 100.0))
def test_more_rank_never_turns_no_collapse_into_a_collapse(e: Evidence, more: float, more_locally: float) -> None:
    assume(judge(e).cause not in COLLAPSES)
    ranks = tuple(rank + more_locally for rank in e.local_ranks)
    assert judge(replace(e, averaged_rank=e.averaged_rank + more, local_ranks=ranks)).cause not in COLLAPSES


@settings(max_examples=200, deadline=None)
@given(evidence(decided=True) | evidence(), st.integers(0, 5000))
def test_more_examples_never_make_a_verdict_uncertain_or_another_one(e: Evidence, more: int) -> None:
    assume(judge(e).cause != "too_few_examples")
    assert judge(replace(e, num_examples=e.num_examples + more)).cause == judge(e).cause


@settings(max_examples=200, deadline=None)
@given(evidence(), st.randoms(use_true_random=False))
def test_the_order_of_clients_does_not_matter_and_every_verdict_has_words(e: Evidence, order: object) -> None:
    shuffled = list(e.local_ranks)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    verdict = judge(e)
    assert judge(replace(e, local_ranks=tuple(shuffled))) == verdict
    assert verdict.remedy == REMEDIES[verdict.cause]
    assert verdict.sentence.endswith(".")
    assert "nan" not in verdict.sentence
    assert "None" not in verdict.sentence


@settings(max_examples=200, deadline=None)
@given(evidence(decided=True))
def test_a_run_compared_with_itself_is_no_collapse(e: Evidence) -> None:
    assert judge(replace(e, reference_rank=e.averaged_rank)).cause not in COLLAPSES


@settings(max_examples=200, deadline=None)
@given(evidence(decided=True))
def test_averaging_is_blamed_only_where_it_lost_something(e: Evidence) -> None:
    if judge(e).cause == "averaging":
        assert e.averaged_rank < e.local_rank


@settings(max_examples=200, deadline=None)
@given(evidence(decided=True), st.floats(0.0, 1.0))
def test_losing_more_in_averaging_alone_never_blames_local_training(e: Evidence, share: float) -> None:
    if judge(e).cause == "averaging":
        assert judge(replace(e, averaged_rank=share * e.averaged_rank)).cause == "averaging"


def test_the_borders_are_those_of_the_module_docstring() -> None:
    healthy = Evidence(100, 64, 10, 12, averaged_rank=0.7 * 9, local_ranks=(0.35 * 9,))
    assert judge(healthy).cause == "few_classes"
    assert judge(replace(healthy, num_examples=99)).cause == "too_few_examples"
    assert judge(replace(healthy, num_dead=13)).cause == "dead_units"
    assert judge(replace(healthy, averaged_rank=6.29)).cause == "local_training"
    assert judge(replace(healthy, local_ranks=(3.14,))).cause == "local_training"
    assert judge(replace(healthy, averaged_rank=18.0)).cause == "no_collapse"
    assert judge(replace(healthy, reference_rank=49.6)).cause == "too_few_examples"
    assert judge(replace(healthy, reference_rank=49.5)).cause == "local_training"
    # Training 9 -> 6, a factor of 2/3, against averaging 6 -> 4, the same: training is first.
    assert judge(replace(healthy, averaged_rank=4.0, local_ranks=(6.0,))).cause == "local_training"
    assert judge(replace(healthy, averaged_rank=3.99, local_ranks=(6.0,))).cause == "averaging"


# How the thresholds were calibrated


@pytest.mark.parametrize("decay", [0.0, 1.2, 1.5])
def test_as_many_examples_as_are_asked_for_do_not_make_a_healthy_model_look_collapsed(decay: float) -> None:
    # Power laws in 512 dimensions, cut where they have an effective rank of 9 or more; see docs/diagnosis.md.
    spectrum = np.arange(1, 513) ** -decay if decay else np.ones(9)
    spectrum = next(spectrum[:k] for k in range(1, 513) if effective_rank(torch.from_numpy(spectrum[:k])) > 8.999)
    rng, n = np.random.default_rng(0), Evidence(0, 512, 10, 0, 0.0).examples_needed
    ranks = [
        feature_rank(torch.from_numpy(rng.standard_normal((n, len(spectrum))) * np.sqrt(spectrum))) for _ in range(20)
    ]
    assert n == 100
    assert min(ranks) > ENOUGH * 9
    assert np.mean(ranks) > 0.83 * 9


def cifar10_run(folder: Path) -> Evidence:
    """The last round of a run, from the eigenvalues that are kept of it."""
    record = json.loads((folder / "records.jsonl").read_text().splitlines()[-1])
    with np.load(folder / "spectra" / f"round-{record['round']:04d}.npz") as spectra:
        averaged, *local = (
            effective_rank(torch.from_numpy(values))
            for values in (spectra["global_covariance"], *spectra["local_covariance"])
        )
    d, dead = record["spectrum"]["num_features"], record["spectrum"]["num_dead"]
    return Evidence(1000, d, 10, dead, averaged, tuple(local))


def cifar10_runs(setting: str, beta: str) -> list[Evidence]:
    found = [cifar10_run(CIFAR10 / setting / f"seed={seed},beta={beta}") for seed in range(3)]
    assert len(found) == 3
    return found


@pytest.mark.parametrize(
    ("setting", "beta", "causes"),
    [
        ("resnet20", "0", {"local_training"}),
        ("resnet20", "0.01", {"few_classes"}),
        ("resnet20", "0.1", {"few_classes"}),
        ("small_cnn", "0.1", {"dead_units"}),
        ("small_cnn_covariance", "0.01", {"no_collapse"}),
        ("small_cnn_covariance", "0.1", {"no_collapse"}),
    ],
)
def test_collapsed_and_repaired_cifar10_runs_are_told_apart_at_every_seed(
    setting: str, beta: str, causes: set[Cause]
) -> None:
    assert {judge(run).cause for run in cifar10_runs(setting, beta)} == causes


def test_against_the_repaired_run_the_cnn_without_normalisation_is_collapsed_by_local_training() -> None:
    for collapsed, repaired in zip(
        cifar10_runs("small_cnn", "0"), cifar10_runs("small_cnn_covariance", "0.01"), strict=True
    ):
        assert judge(replace(collapsed, reference_rank=repaired.averaged_rank)).cause == "local_training"
        assert judge(replace(repaired, reference_rank=repaired.averaged_rank)).cause == "no_collapse"


def test_the_thresholds_lie_between_the_collapsed_and_the_repaired_runs() -> None:
    collapsed = cifar10_runs("resnet20", "0")
    repaired = cifar10_runs("resnet20", "0.01") + cifar10_runs("resnet20", "0.1")
    assert max(run.averaged_rank for run in collapsed) < ENOUGH * 9 < min(run.averaged_rank for run in repaired)
    assert min(median(run.local_ranks) for run in repaired) > ENOUGH_LOCALLY * 9
