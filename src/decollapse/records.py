"""Round records as JSON and as arrays: what a run folder says about a round."""

from __future__ import annotations

import io
import math
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import Tensor

from decollapse.diagnosis.federated import FederatedSpectrum
from decollapse.diagnosis.local import measured_accuracy, measured_spectrum
from decollapse.simulation import ClientSummary, RoundRecord
from decollapse.spectrum import Spectrum, measure


def record_as_json(record: RoundRecord) -> dict[str, Any]:
    """One line of `records.jsonl`."""
    evaluation = record.evaluation
    return {
        "round": record.round,
        "cohort": record.cohort,
        "clients": [_client_as_json(client) for client in record.clients],
        "rejected": [{"client": rejection.client, "reason": rejection.reason} for rejection in record.rejected],
        "evaluation": evaluation
        and {
            "accuracy": evaluation.accuracy,
            "loss": _finite(evaluation.loss),
            "per_class_accuracy": evaluation.per_class_accuracy,
            "by_column": evaluation.by_column,
        },
        "spectrum": _summary(evaluation.spectrum) if evaluation else None,
        "diagnosis": record.diagnosis and without_nan(asdict(record.diagnosis)),
        "federated": _federated_as_json(record.federated),
        "seconds": record.seconds,
        "traffic": record.traffic and asdict(record.traffic),
    }


def _client_as_json(client: ClientSummary) -> dict[str, Any]:
    return {
        "client": client.client,
        "num_examples": client.num_examples,
        "num_steps": client.num_steps,
        "metrics": {name: _finite(value) for name, value in client.metrics.items()},
        "delta_norm": _finite(client.delta_norm),
        "spectrum": _summary(measured_spectrum(client.measurements)),
        "probe_accuracy": measured_accuracy(client.measurements),
        "seconds": client.seconds,
        "parts": {part: round(seconds, 6) for part, seconds in client.parts.items()},
    }


def _federated_as_json(found: FederatedSpectrum | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "spectrum": _summary(found.spectrum),
        "covariance_missing": _finite(found.covariance_missing),
        "correlation_missing": _finite(found.correlation_missing),
        "neural_collapse": found.neural_collapse and without_nan(asdict(found.neural_collapse)),
        "privacy": found.privacy and without_nan(asdict(found.privacy)),
        "num_clients": found.num_clients,
        "bytes_per_client": found.bytes_per_client,
        "seconds": found.seconds,
    }


def _summary(spectrum: Spectrum | None) -> dict[str, Any] | None:
    if spectrum is None:
        return None
    return {
        "num_examples": spectrum.num_examples,
        "num_features": len(spectrum.covariance),
        "num_dead": spectrum.num_dead,
        "covariance": _measures(spectrum.covariance),
        "correlation": _measures(spectrum.correlation),
    }


def _measures(eigenvalues: Tensor) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in measure(eigenvalues).items()}


def without_nan(value: Any) -> Any:
    """The same nested tables and lists, with None in the place of NaN and infinity."""
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    return _finite(value) if isinstance(value, float) else value


def _finite(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None


def spectra_as_npz(record: RoundRecord) -> bytes | None:
    """A compressed npz file with the eigenvalues of a round, or None where none were measured."""
    spectrum = record.evaluation.spectrum if record.evaluation else None
    local = {client.client: measured_spectrum(client.measurements) for client in record.clients}
    measured = {client: spectrum for client, spectrum in local.items() if spectrum is not None}
    arrays: dict[str, np.ndarray] = {}
    if spectrum is not None:
        arrays |= {
            "global_covariance": spectrum.covariance.numpy(),
            "global_correlation": spectrum.correlation.numpy(),
        }
    if measured:
        arrays |= {
            "clients": np.array(list(measured)),
            "local_covariance": np.stack([spectrum.covariance.numpy() for spectrum in measured.values()]),
            "local_correlation": np.stack([spectrum.correlation.numpy() for spectrum in measured.values()]),
        }
    if record.federated is not None:
        arrays |= {
            "federated_covariance": record.federated.spectrum.covariance.numpy(),
            "federated_correlation": record.federated.spectrum.correlation.numpy(),
        }
    if not arrays:
        return None
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # numpy types the names of arrays as options
    return buffer.getvalue()
