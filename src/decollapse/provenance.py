"""Where a run comes from: its data, split, model, versions and machine, as `run.json` has them."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

import decollapse
from decollapse.experiment import Prepared


def provenance(prepared: Prepared) -> dict[str, Any]:
    """What `run.json` says beside the recipe."""
    params, counts = prepared.initial_model().params, prepared.clients.class_counts()
    return {
        "fingerprint": prepared.fingerprint,
        "partition": {
            "class_counts": None if counts is None else counts.tolist(),
            "classes": list(prepared.dataset.classes),
        },
        "test_groups": {column: groups.counts for column, groups in prepared.dataset.test_groups.items()},
        "model": {"parameters": sum(leaf.numel() for leaf in params.values())},
        "versions": {
            "decollapse": decollapse.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "machine": {
            "cpu": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "platform": platform.platform(),
        },
    }


def _processor() -> str:
    """The processor's name as the operating system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
