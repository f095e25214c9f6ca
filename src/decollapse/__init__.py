"""Find, explain and repair dimensional collapse in federated learning.

    loss = criterion(logits, y) + 0.1 * decorrelation_loss(features)

`import decollapse` costs nothing; a name is imported when it is first used, and the loss and the spectrum need PyTorch
alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decollapse import spectrum as spectrum
    from decollapse.aggregate import Aggregate as Aggregate
    from decollapse.aggregate.mean import WeightedMean as WeightedMean
    from decollapse.algorithm import Algorithm as Algorithm
    from decollapse.algorithms import fedavg as fedavg
    from decollapse.algorithms import fedavgm as fedavgm
    from decollapse.algorithms import fedprox as fedprox
    from decollapse.algorithms import with_feddecorr as with_feddecorr
    from decollapse.algorithms import with_term as with_term
    from decollapse.client import ClientUpdate as ClientUpdate
    from decollapse.config import load_recipe as load_recipe
    from decollapse.core import ModelState as ModelState
    from decollapse.core import Output as Output
    from decollapse.data import load_dataset as load_dataset
    from decollapse.diagnosis.collapse_probe import CollapseProbe as CollapseProbe
    from decollapse.diagnosis.federated import federated_spectrum as federated_spectrum
    from decollapse.evaluation import evaluate as evaluate
    from decollapse.experiment import Experiment as Experiment
    from decollapse.experiment import prepare as prepare
    from decollapse.feature_statistics import FeatureStatistics as FeatureStatistics
    from decollapse.models import Classifier as Classifier
    from decollapse.models import HookedClassifier as HookedClassifier
    from decollapse.optim import SGD as SGD
    from decollapse.optim import Adam as Adam
    from decollapse.server.sgd import ServerSGD as ServerSGD
    from decollapse.simulation import run_round as run_round
    from decollapse.simulation import simulate as simulate
    from decollapse.spectrum import Spectrum as Spectrum
    from decollapse.terms.cross_entropy import CrossEntropy as CrossEntropy
    from decollapse.terms.feddecorr import FedDecorr as FedDecorr
    from decollapse.terms.feddecorr import FedDecorrLoss as FedDecorrLoss
    from decollapse.terms.feddecorr import convert_beta as convert_beta
    from decollapse.terms.feddecorr import decorrelation_loss as decorrelation_loss
    from decollapse.terms.proximal import Proximal as Proximal

__version__ = "0.1.0"

_HOME = {
    "Aggregate": "aggregate",
    "WeightedMean": "aggregate.mean",
    "Algorithm": "algorithm",
    "fedavg": "algorithms",
    "fedavgm": "algorithms",
    "fedprox": "algorithms",
    "with_feddecorr": "algorithms",
    "with_term": "algorithms",
    "ClientUpdate": "client",
    "load_recipe": "config",
    "ModelState": "core",
    "Output": "core",
    "load_dataset": "data",
    "CollapseProbe": "diagnosis.collapse_probe",
    "federated_spectrum": "diagnosis.federated",
    "evaluate": "evaluation",
    "Experiment": "experiment",
    "prepare": "experiment",
    "FeatureStatistics": "feature_statistics",
    "Classifier": "models",
    "HookedClassifier": "models",
    "SGD": "optim",
    "Adam": "optim",
    "ServerSGD": "server.sgd",
    "run_round": "simulation",
    "simulate": "simulation",
    "Spectrum": "spectrum",
    "CrossEntropy": "terms.cross_entropy",
    "FedDecorr": "terms.feddecorr",
    "FedDecorrLoss": "terms.feddecorr",
    "convert_beta": "terms.feddecorr",
    "decorrelation_loss": "terms.feddecorr",
    "Proximal": "terms.proximal",
}

__all__ = sorted([*_HOME, "__version__", "spectrum"])  # a list, computed once


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name == "spectrum":
        return import_module("decollapse.spectrum")
    if name in _HOME:
        return getattr(import_module(f"decollapse.{_HOME[name]}"), name)
    raise AttributeError(f"module 'decollapse' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
