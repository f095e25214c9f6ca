"""Every setting does something, and at its neutral value a method is FedAvg."""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import cache

import pytest
import torch
from members import initial_model, small_federation
from methods import CLIENT, HALVES, METHODS

from decollapse.aggregate.mean import WeightedMean
from decollapse.aggregate.normalized import NormalizedMean
from decollapse.algorithms import (
    Algorithm,
    fedacg,
    fedavg,
    fedavgm,
    fedexp,
    fedlc,
    fedmr,
    fedntd,
    fedprox,
    fedrcl,
    fedrs,
    fedsam,
    feduv,
    moon,
    scaffold,
    with_term,
)
from decollapse.catalog import ALGORITHMS, SERVER_OPTIMIZERS, TERMS
from decollapse.engines.serial import Serial
from decollapse.privacy.private_mean import PrivateMean
from decollapse.robust import GeometricMedian, NormClipping, TrimmedMean
from decollapse.schedule import Constant, Scheduled
from decollapse.server.adaptive import FedAdagrad, FedAdam, FedYogi
from decollapse.server.sgd import ServerSGD
from decollapse.server_state import ServerState
from decollapse.simulation import simulate
from decollapse.terms.balanced_softmax import BalancedSoftmax
from decollapse.terms.feddecorr import FedDecorr
from decollapse.terms.global_feddecorr import GlobalFedDecorr
from decollapse.terms.memory_feddecorr import MemoryFedDecorr
from decollapse.terms.split_feddecorr import SplitFedDecorr
from decollapse.tree import Tree

PLAIN = fedavg(CLIENT)
UNIFORM = Algorithm(CLIENT, WeightedMean(weights="uniform"))
STRENGTHS = {
    name: strength
    for name, term in TERMS.items()
    for strength in ("strength", "beta", "mu")
    if strength in inspect.signature(term).parameters and name not in ("balanced_softmax", "adaptive_feddecorr")
}
NEUTRAL: dict[str, tuple[Algorithm, Algorithm]] = {
    "fedprox": (fedprox(CLIENT, mu=0.0), PLAIN),
    "moon": (moon(CLIENT, mu=0.0), PLAIN),
    "fedavgm": (fedavgm(CLIENT, momentum=0.0), PLAIN),
    "fedrs": (fedrs(CLIENT, alpha=1.0), PLAIN),
    "fedlc": (fedlc(CLIENT, tau=0.0), PLAIN),
    "balanced softmax": (Algorithm(replace(CLIENT, objective=(BalancedSoftmax(strength=0.0),))), PLAIN),
    "fedsam": (fedsam(CLIENT, rho=0.0), PLAIN),
    "fedntd": (fedntd(CLIENT, beta=0.0), PLAIN),
    "feduv": (feduv(CLIENT, variance=0.0, uniformity=0.0), PLAIN),
    "fedmr": (fedmr(CLIENT, mu=0.0), PLAIN),
    "fedrcl": (fedrcl(CLIENT, strength=0.0), PLAIN),
    "fedexp": (fedexp(CLIENT, eps=1e30), PLAIN),
    "fedacg": (fedacg(CLIENT, momentum=0.0, mu=0.0), UNIFORM),
    "trimmed mean": (Algorithm(CLIENT, TrimmedMean(share=0.0)), UNIFORM),
    "geometric median": (Algorithm(CLIENT, GeometricMedian(smoothing=float("inf"))), UNIFORM),
    "norm clipping": (Algorithm(CLIENT, NormClipping(max_norm=float("inf"))), UNIFORM),
    "private mean": (Algorithm(CLIENT, PrivateMean(clip=float("inf"), noise_multiplier=0.0)), UNIFORM),
    "a schedule of 0": (with_term(PLAIN, Scheduled(FedDecorr(), Constant(0.0))), PLAIN),
    "a schedule of 1": (with_term(PLAIN, Scheduled(FedDecorr(), Constant(1.0))), METHODS["term feddecorr"]),
    "no part frozen or personal": (fedavg(replace(CLIENT, frozen=(), personal=())), PLAIN),
    "term split_feddecorr": (with_term(PLAIN, SplitFedDecorr(within=0.0, between=0.0)), PLAIN),
    "memory_feddecorr without memory": (with_term(PLAIN, MemoryFedDecorr(memory=0.0)), METHODS["term feddecorr"]),
    "global_feddecorr of its own": (with_term(PLAIN, GlobalFedDecorr(mix=0.0)), METHODS["term feddecorr"]),
    **{f"term {name}": (with_term(PLAIN, TERMS[name](**{key: 0.0})), PLAIN) for name, key in STRENGTHS.items()},
}
"""Pairs with the same bits."""


def rounds(algorithm: Algorithm, number: int = 3) -> ServerState:
    with Serial()(small_federation()) as engine:
        *_, (_, server) = simulate(algorithm, engine, initial_model(), num_clients=5, rounds=number, seed=5)
    return server


@cache
def _known(name: str) -> ServerState:
    return rounds({"plain": PLAIN, "uniform": UNIFORM}[name])


def reference(algorithm: Algorithm) -> ServerState:
    if algorithm in (PLAIN, UNIFORM):
        return _known("plain" if algorithm == PLAIN else "uniform")
    return rounds(algorithm)


def whole(server: ServerState) -> Tree:
    return server.model.params | server.model.buffers


@pytest.mark.parametrize("name", NEUTRAL)
def test_the_neutral_setting_has_the_bits_of_fedavg(name: str) -> None:
    neutral, plain = NEUTRAL[name]
    theirs = whole(reference(plain))
    for leaf_name, leaf in whole(rounds(neutral)).items():
        assert torch.equal(leaf, theirs[leaf_name]), leaf_name


@pytest.mark.parametrize("server", [FedAdagrad, FedAdam, FedYogi])
def test_an_adaptive_server_that_hardly_adapts_is_fedavg(server: type) -> None:
    theirs = reference(PLAIN).model.params
    for name, leaf in rounds(
        Algorithm(CLIENT, server=server(lr=1e4, tau=1e4, beta1=0.0, initial=0.0))
    ).model.params.items():
        torch.testing.assert_close(leaf, theirs[name], rtol=1e-3, atol=1e-4)


def test_fednova_with_equal_steps_is_fedavg() -> None:
    equal = replace(CLIENT, batch_size=1000)
    theirs = rounds(fedavg(equal)).model.params
    for name, leaf in rounds(Algorithm(equal, NormalizedMean())).model.params.items():
        torch.testing.assert_close(leaf, theirs[name], rtol=1e-4, atol=1e-6)


def test_scaffold_without_a_past_is_uniform_fedavg() -> None:
    theirs = whole(rounds(UNIFORM, 1))
    for name, leaf in whole(rounds(scaffold(CLIENT), 1)).items():
        assert torch.equal(leaf, theirs[name])


def test_fedbn_keeps_weights_and_statistics_of_its_normalisation_layers() -> None:
    kept = {state_name for state in rounds(ALGORITHMS["fedbn"](CLIENT)).clients.values() for state_name in state}
    assert kept == {"buffers", "personal"}


@pytest.mark.parametrize("server", sorted(SERVER_OPTIMIZERS.keys() - HALVES))
def test_a_server_keeps_the_plain_mean_of_personal_parts(server: str) -> None:
    after = rounds(Algorithm(replace(CLIENT, personal=("head",)), server=SERVER_OPTIMIZERS[server]()), 2)
    sizes = torch.tensor([len(small_federation().clients[client]) for client in range(5)], dtype=torch.float32)
    for name in ("head.weight", "head.bias"):
        own = torch.stack([after.clients[client]["personal"][name] for client in range(5)])
        mean = torch.tensordot(sizes / sizes.sum(), own, dims=1)
        torch.testing.assert_close(after.model.params[name], mean, rtol=1e-5, atol=1e-6)


NUMBERS = [
    (name, key, setting.default)
    for name, make in ALGORITHMS.items()
    for key, setting in inspect.signature(make).parameters.items()
    if isinstance(setting.default, float)
] + [("moon", "temperature", 0.5), ("fedlc", "tau", 1.0)]


@cache
def at_its_default(name: str) -> Tree:
    return rounds(ALGORITHMS[name](CLIENT)).model.params


@pytest.mark.parametrize(("name", "key", "default"), NUMBERS)
def test_every_number_of_an_algorithm_changes_the_result(name: str, key: str, default: float) -> None:
    changed = rounds(ALGORITHMS[name](CLIENT, **{key: default * 0.7})).model.params
    assert any(not torch.equal(leaf, changed[leaf_name]) for leaf_name, leaf in at_its_default(name).items())


RELEASE = [name for name, make in ALGORITHMS.items() if "compat" in inspect.signature(make).parameters]


@pytest.mark.parametrize("name", RELEASE)
def test_the_release_differs_from_the_paper(name: str) -> None:
    assert ALGORITHMS[name](CLIENT, compat="release") != ALGORITHMS[name](CLIENT, compat="paper")


def test_a_heavy_ball_and_its_damped_form_differ_by_a_factor() -> None:
    heavy = Algorithm(CLIENT, server=ServerSGD(momentum=0.5, lr=0.5))
    damped = Algorithm(CLIENT, server=ServerSGD(momentum=0.5, damped=True))
    theirs = rounds(damped).model.params
    for name, leaf in rounds(heavy).model.params.items():
        torch.testing.assert_close(leaf, theirs[name], rtol=1e-4, atol=1e-6)
