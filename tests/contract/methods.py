"""The members of the conformance suite: every algorithm, term, aggregator and server there is to name in a recipe.

They come from the catalogue, so that a new one joins when it gets its line there; settings that a tiny federation needs
stand here.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from members import PullBack

from decollapse.aggregate.normalized import NormalizedMean
from decollapse.algorithm import adding
from decollapse.algorithms import Algorithm, fedavg, fedrcl, fedsam, scaffold, with_feddecorr, with_term
from decollapse.catalog import AGGREGATORS, ALGORITHMS, SERVER_OPTIMIZERS, TERMS
from decollapse.client import ClientUpdate
from decollapse.data import Crop, Flip
from decollapse.optim import SGD
from decollapse.robust import Krum
from decollapse.schedule import Cosine, Scheduled, WarmUp
from decollapse.server.adaptive import FedAdam
from decollapse.server.sgd import ServerSGD
from decollapse.terms.adaptive_feddecorr import AdaptiveFedDecorr
from decollapse.terms.feddecorr import FedDecorr
from decollapse.terms.global_feddecorr import GlobalFedDecorr
from decollapse.terms.memory_feddecorr import MemoryFedDecorr
from decollapse.terms.moon import MOON

CLIENT = ClientUpdate(epochs=2, batch_size=8, augment=(Crop(padding=1), Flip()), optimizer=SGD(lr=0.02))
HALVES = {"scaffold", "feddyn"}  # half of a method, refused without the other half: there as algorithms
REPLACE_CROSS_ENTROPY = {"restricted_softmax", "logit_calibration", "balanced_softmax"}
SETTINGS = {
    "adaptive_feddecorr": partial(AdaptiveFedDecorr, target=4.0),
    "krum": partial(Krum, num_byzantine=0),  # three clients a round: 2 f + 3 of them are needed
}
LAYERS = ("encoder.0", "features")


def _with(name: str) -> Algorithm:
    term = SETTINGS.get(name, TERMS[name])()
    if name in REPLACE_CROSS_ENTROPY | {"cross_entropy"}:
        return Algorithm(replace(CLIENT, objective=(term,)))
    return with_term(fedavg(CLIENT), term)


METHODS: dict[str, Algorithm] = {
    **{name: make(CLIENT) for name, make in ALGORITHMS.items()},
    **{f"term {name}": _with(name) for name in TERMS if name not in HALVES},
    **{f"aggregate {name}": Algorithm(CLIENT, SETTINGS.get(name, make)()) for name, make in AGGREGATORS.items()},
    **{
        f"server {name}": Algorithm(CLIENT, server=make())
        for name, make in SERVER_OPTIMIZERS.items()
        if name not in HALVES
    },
    "fedavg + feddecorr on layers": with_term(fedavg(CLIENT), FedDecorr(layers=LAYERS)),
    "fedrcl on layers": fedrcl(CLIENT, layers=LAYERS),
    "moon on layers": with_term(fedavg(CLIENT), MOON(layers=LAYERS)),
    "moon without augmentation": with_term(fedavg(replace(CLIENT, augment=())), MOON()),
    "scheduled": with_term(fedavg(CLIENT), Scheduled(FedDecorr(), WarmUp(rounds=3))),
    "global feddecorr under fednova and fedadam": Algorithm(
        adding(CLIENT, GlobalFedDecorr(layers=LAYERS)), NormalizedMean(), FedAdam()
    ),
    "global feddecorr with scaffold": with_term(scaffold(CLIENT), GlobalFedDecorr(mix=0.5)),
    "memory feddecorr with sam and a schedule": with_term(
        fedsam(CLIENT), Scheduled(MemoryFedDecorr(layers=LAYERS), WarmUp(rounds=3))
    ),
    "scheduled and stateful": with_term(fedavg(CLIENT), Scheduled(MOON(), Cosine(rounds=5))),
    "a stateful term of somebody else": with_term(fedavg(CLIENT), PullBack()),
    "nesterov": Algorithm(CLIENT, server=ServerSGD(momentum=0.5, nesterov=True)),
    "local buffers": fedavg(replace(CLIENT, buffers="local")),
    "reset buffers": fedavg(replace(CLIENT, buffers="reset")),
    "recalibrated buffers": fedavg(replace(CLIENT, buffers="recalibrate")),
}
"""By name. The promises of this folder hold for every one of them."""


def plus_feddecorr(algorithm: Algorithm) -> Algorithm:
    """`algorithm` with FedDecorr; as it is, where it has it already."""
    names = [term.name for term in algorithm.client.objective]
    return algorithm if "feddecorr" in names else with_feddecorr(algorithm)
