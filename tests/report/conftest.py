"""Synthetic run folders: the shape of real ones, numbers that are cheap to make."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

NUM_FEATURES, NUM_CLIENTS = 64, 10
CLASSES = ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]

WriteRun = Callable[..., Path]
"""`write_run(name, *, beta=None, seed=0, finished=6, recipe=None, spectra=True, ...)`: a new folder."""


def make_recipe(*, beta: float | None = None, seed: int = 0, alpha: float = 0.05, rounds: int = 6) -> dict[str, Any]:
    objective: dict[str, Any] = {"cross_entropy": {}}
    if beta is not None:
        objective["feddecorr"] = {"beta": beta, "normalization": "batch_invariant"}
    return {
        "data": {"name": "fashion-mnist-small"},
        "partition": {"name": "dirichlet", "alpha": alpha},
        "num_clients": NUM_CLIENTS,
        "cohort_size": None,
        "model": {"name": "resnet20", "norm": "batch"},
        "client": {
            "epochs": 10,
            "batch_size": 64,
            "objective": objective,
            "optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-05},
        },
        "aggregate": {"name": "weighted_mean"},
        "server": {"name": "sgd", "lr": 1.0, "momentum": 0.0},
        "rounds": rounds,
        "seed": seed,
        "engine": {"name": "process", "dtype": "float32", "workers": 2},
    }


def measures(eigenvalues: np.ndarray) -> dict[str, float]:
    shares = eigenvalues[eigenvalues > 0] / eigenvalues.sum()
    return {
        "effective_rank": float(np.exp(-(shares * np.log(shares)).sum())),
        "participation_ratio": float(1 / (shares**2).sum()),
        "stable_rank": float(1 / shares.max()),
    }


def summary(eigenvalues: np.ndarray) -> dict[str, Any]:
    covariance, dead = measures(eigenvalues), int((eigenvalues == 0).sum())
    correlation = measures(np.sqrt(eigenvalues))
    sizes = {"num_dead": dead, "num_features": len(eigenvalues), "num_examples": 2000}
    return {"covariance": covariance, "correlation": correlation, **sizes}


def eigenvalues_of(decay: float, num_dead: int, rng: np.random.Generator, width: int = NUM_FEATURES) -> np.ndarray:
    values = np.exp(-decay * np.arange(width) + rng.normal(0, 0.12, width)) * 4
    values[width - num_dead :] = 0
    return np.sort(values)[::-1]


def make_record(
    round_: int, counts: np.ndarray, strength: float, rng: np.random.Generator
) -> tuple[dict[str, Any], dict]:
    progress = 1 - np.exp(-round_ / 2.5)
    decay = 0.14 * (0.4 + 0.6 * progress) / (1 + 1.6 * strength * progress)
    spectrum = eigenvalues_of(decay, 0 if strength else min(2 * round_, 9), rng)
    accuracy = 0.1 + (0.44 + 0.07 * strength) * progress + float(rng.normal(0, 0.012)) * (round_ > 0)
    local = np.stack([eigenvalues_of(decay * 1.4 * rng.uniform(0.8, 1.3), 3, rng) for _ in counts])
    trained = enumerate(counts) if round_ else ()
    clients = [
        {
            "client": client,
            "num_examples": int(row.sum()),
            "num_steps": int(10 * np.ceil(row.sum() / 64)),
            "metrics": {"cross_entropy": 0.4, "accuracy": 0.9} | ({"feddecorr": 0.1} if strength else {}),
            "delta_norm": 1.2 + 0.1 * client,
            "seconds": 0.31,
            "spectrum": summary(local[client]),
        }
        for client, row in trained
    ]
    record = {
        "round": round_,
        "cohort": list(range(len(counts))) if round_ else [],
        "clients": clients,
        "rejected": [],
        "evaluation": {
            "accuracy": accuracy,
            "loss": 2.3 - 1.1 * progress + float(rng.normal(0, 0.03)),
            "per_class_accuracy": np.clip(accuracy + rng.normal(0, 0.2, 10), 0, 1).tolist(),
        },
        "spectrum": summary(spectrum),
        "seconds": {"total": 4.0 if round_ else 0.5, "clients": 3.4 if round_ else 0.0, "evaluation": 0.5},
    }
    arrays = {"global_covariance": spectrum, "global_correlation": np.sqrt(spectrum)}
    if round_ and round_ % 3 == 0:
        arrays |= {"clients": np.arange(len(counts)), "local_covariance": local, "local_correlation": np.sqrt(local)}
    return record, arrays


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    def write(
        name: str,
        *,
        beta: float | None = None,
        seed: int = 0,
        alpha: float = 0.05,
        finished: int | None = 6,
        recipe: Mapping[str, Any] | None = None,
        change: Callable[[dict[str, Any]], dict[str, Any]] = lambda record: record,
        classes: list[str] = CLASSES,
        fingerprint: str = "5ca1ab1e",
    ) -> Path:
        folder = tmp_path / "runs" / name
        (folder / "spectra").mkdir(parents=True)
        deal = np.random.default_rng([seed, int(100 * alpha)])  # every method with this seed sees this split
        counts = np.stack([deal.multinomial(500, share) for share in deal.dirichlet([alpha] * NUM_CLIENTS, 10)]).T
        rng = np.random.default_rng([seed, int(100 * (beta or 0)), int(100 * alpha)])
        description = {
            "format": 1,
            "name": name,
            "recipe": dict(recipe) if recipe is not None else make_recipe(beta=beta, seed=seed, alpha=alpha),
            "versions": {"decollapse": "0.1.0", "torch": "2.13.0", "python": "3.11.2"},
            "machine": {"cpu": "Imaginary 3000", "cores": 2, "platform": "Linux"},
            "started": "2026-11-22T15:00:00+00:00",
            "partition": {"class_counts": counts.tolist(), "classes": classes},
            "model": {"parameters": 272474, "feature_dim": NUM_FEATURES},
            "fingerprint": fingerprint,
        }
        (folder / "run.json").write_text(json.dumps(description))
        lines = []
        for round_ in range(0 if finished is None else finished + 1):
            record, arrays = make_record(round_, counts, min(1.0, 8 * (beta or 0.0)), rng)
            lines.append(json.dumps(change(record)))
            np.savez(folder / "spectra" / f"round-{round_:04d}.npz", **arrays)
        (folder / "records.jsonl").write_text("\n".join(lines))
        return folder

    return write


Diagnose = Callable[..., Callable[[dict[str, Any]], dict[str, Any]]]
"""`diagnose(rank=6.0, cause="no_collapse", ...)`: what to give `write_run` as `change`, for rounds 3 and 6."""


@pytest.fixture
def diagnose() -> Diagnose:
    def diagnosis_of(
        rank: float = 12.0,
        cause: str = "no_collapse",
        sentence: str = "No collapse.",
        remedy: str = "Nothing to repair.",
        also: Mapping[str, Any] = {},
    ) -> Callable[[dict[str, Any]], dict[str, Any]]:
        def change(record: dict[str, Any]) -> dict[str, Any]:
            if record["round"] == 0 or record["round"] % 3:
                return record
            steps = np.arange(NUM_CLIENTS) / NUM_CLIENTS
            local = (rank + 2 * steps + 0.1 * record["round"]).tolist()
            ranks = {"local": local, "concatenated": 3 * rank, "mean": 0.9 * rank, "averaged": rank}
            sizes = {"num_examples": 2000, "num_features": NUM_FEATURES, "num_dead": 1}
            alignment = {"cka_between": 0.5, "cka_with_averaged": (0.6 + 0.2 * steps).tolist(), "directions": 4}
            alignment["overlap_with_averaged"] = (0.3 + 0.2 * steps).tolist()
            found = {
                "verdict": {"cause": cause, "sentence": sentence, "remedy": remedy},
                "evidence": {**sizes, "num_classes": 10, "averaged_rank": rank, "local_ranks": local},
                "attribution": {
                    **sizes,
                    "covariance": ranks,
                    "correlation": {**ranks, "averaged": 2 * rank},
                    "alignment": alignment,
                },
                "clients": list(range(NUM_CLIENTS)),
                "neural_collapse": {"nc1": 0.7, "nc2_norms": 0.2, "nc2_angles": 0.1, "nc3": None, "nc4": 0.3},
                "drift": {"norms": (1 + steps).tolist(), "cosines": (0.8 - steps).tolist(), "agreement": 0.2},
                "lost_variance": 0.08,
                **also,
            }
            clients = [{**client, "probe_accuracy": 0.3 + 0.01 * client["client"]} for client in record["clients"]]
            return {**record, "diagnosis": found, "clients": clients}

        return change

    return diagnosis_of


@pytest.fixture
def two_groups(write_run: WriteRun) -> list[Path]:
    """FedAvg and FedAvg + FedDecorr 0.1, three seeds each."""
    return [write_run(f"beta={beta},seed={seed}", beta=beta, seed=seed) for beta in (None, 0.1) for seed in range(3)]


@pytest.fixture
def six_groups(write_run: WriteRun) -> list[Path]:
    """Two label skews x three strengths, three seeds each."""
    return [
        write_run(f"alpha={alpha},beta={beta},seed={seed}", alpha=alpha, beta=beta, seed=seed)
        for alpha in (0.05, 0.5)
        for beta in (None, 0.05, 0.2)
        for seed in range(3)
    ]
