"""What privacy costs: bytes and processor time of a secure sum, and what noise does to spectra and to accuracy.

    python benchmarks/privacy.py
    python benchmarks/privacy.py --parts sum --clients 50 --numbers 1000000
    python benchmarks/privacy.py --parts eigenvalues noise accuracy --out privacy.json

Times are processor time, of the client or server that does the work, on one core; medians of three clients. For the
server, inputs are as long as a client's, with the threshold's worth of clients gone, which costs it most.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from decollapse.config import from_table
from decollapse.diagnosis.measure_features import statistics_of
from decollapse.experiment import prepare
from decollapse.feature_statistics import FeatureStatistics
from decollapse.privacy.private_mean import PrivateMean, spent
from decollapse.privacy.private_statistics import PrivateStatistics
from decollapse.secure import server
from decollapse.secure.client import ClientSecrets, advertise, mask, share, unmask
from decollapse.secure.encoding import FixedPoint, Layout
from decollapse.secure.messages import MaskedInput, Session
from decollapse.spectrum import effective_rank, eigenvalues
from decollapse.tree import add

Answer = TypeVar("Answer")
Row = dict[str, Any]
TIMED = 3


def timed(action: Callable[[], Answer], into: list[float]) -> Answer:
    """What `action` gives; its processor time is added to `into`."""
    began = time.process_time()
    answer = action()
    into.append(time.process_time() - began)
    return answer


def secure_sum(num_clients: int, numbers: int) -> Row:
    """One sum of float32 numbers, phase by phase."""
    session = Session(bytes(16), 0, tuple(range(num_clients)), Session.default_threshold(num_clients))
    secrets = {client: ClientSecrets.new(client, session.run) for client in session.clients}
    fixed, tree = FixedPoint(num_clients), {"w": torch.randn(numbers)}
    layout = Layout.of(tree)
    seconds: dict[str, list[float]] = {name: [] for name in ("keys", "shares", "mask", "unmask")}
    keys = tuple(timed(lambda own=own: advertise(own, session), seconds["keys"]) for own in secrets.values())
    shared = [timed(lambda own=own: share(own, session, keys), seconds["shares"]) for own in secrets.values()]
    words = timed(lambda: fixed.encode(tree), encode := [])
    gone = num_clients - session.threshold
    masked, told = [], []
    present = tuple(range(session.threshold))
    for client in present:
        if client < TIMED:
            message, secrets[client] = timed(
                lambda own=secrets[client]: mask(own, session, keys, session.clients, words, layout), seconds["mask"]
            )
            masked.append(message)
        else:
            noise = np.random.default_rng(client).integers(0, 2**64, len(words), dtype=np.uint64)
            masked.append(MaskedInput(client, layout, noise))
            secrets[client] = ClientSecrets(client, session.run, secrets[client].root, masked={0: b""})
    for client in present:
        inbox = server.inbox(client, shared)
        ask = lambda own=secrets[client], inbox=inbox: unmask(own, session, keys, inbox, present)[0]  # noqa: E731
        told.append(timed(ask, seconds["unmask"]))
    timed(lambda: server.unmasked(session, keys, session.clients, masked, told), at_server := [])
    letters = sum(len(letter) for letter in shared[0].sealed.values())
    return {
        "clients": num_clients,
        "numbers": numbers,
        "gone": gone,
        "plain_bytes": 4 * numbers,
        "masked_bytes": masked[0].words.nbytes,
        "keys_and_shares_bytes": 64 + letters,
        "unmasking_bytes": 33 * num_clients,
        "keys_and_shares_ms": 1e3 * (statistics.median(seconds["keys"]) + statistics.median(seconds["shares"])),
        "mask_ms": 1e3 * (encode[0] + statistics.median(seconds["mask"])),
        "unmask_ms": 1e3 * statistics.median(seconds["unmask"]),
        "server_ms": 1e3 * at_server[0],
    }


def decaying(n: int, d: int, *, smallest: float) -> Tensor:
    """Features whose covariance has eigenvalues from 1 down to `smallest`, geometrically."""
    generator = torch.Generator().manual_seed(0)
    columns, _ = torch.linalg.qr(torch.randn(n, d, generator=generator, dtype=torch.float64))
    rotation, _ = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
    return math.sqrt(n) * columns * smallest ** (torch.linspace(0, 0.5, d, dtype=torch.float64)) @ rotation.T


def eigenvalue_error(num_clients: int = 10, d: int = 17) -> list[Row]:
    """The relative error of eigenvalues from 1 to 1e-8, by how statistics are sent."""
    features = decaying(300 * num_clients, d, smallest=1e-8)
    exact = torch.linalg.svdvals(features - features.mean(dim=0)).square() / len(features)
    parts = [FeatureStatistics.of(part).sums() for part in features.split(300)]

    def sent(fixed: FixedPoint, dtype: str) -> Tensor:
        layout = Layout(tuple((name, tuple(leaf.shape), dtype) for name, leaf in parts[0].items()))
        words = np.sum([fixed.encode(each, layout) for each in parts], axis=0, dtype=np.uint64)
        return eigenvalues(FeatureStatistics.from_sums(fixed.decode(words, layout)).covariance())

    plain = parts[0]
    for other in parts[1:]:
        plain = add(plain, other)
    ways = {
        "plain float64": eigenvalues(FeatureStatistics.from_sums(plain).covariance()),
        "two words (as it is)": sent(FixedPoint(num_clients), "torch.float64"),
        "one word, bound 2^28": sent(FixedPoint(num_clients), "torch.float32"),
        "one word, bound 2^40": sent(FixedPoint(num_clients, bound=2.0**40), "torch.float32"),
        "22 bits": eigenvalues(quantised(parts, bits=22)),
    }
    rows = []
    for way, found in ways.items():
        error = (found - exact).abs() / exact
        rows.append({"sent": way} | {f"{exact[at]:.0e}": float(error[at]) for at in (0, d // 2, 3 * d // 4, d - 1)})
    return rows


def quantised(parts: list[dict[str, Tensor]], *, bits: int) -> Tensor:
    """The covariance, where numbers are sent as so many bits of their tensor's largest, rounded."""

    def rounded(leaf: Tensor) -> Tensor:
        step = 2 * leaf.abs().max() / 2**bits
        return (leaf / step).round() * step

    total = {"count": parts[0]["count"] * 0, "sum": parts[0]["sum"] * 0, "gram": parts[0]["gram"] * 0}
    for part in parts:
        total = add(total, {name: part[name] if name == "count" else rounded(part[name]) for name in total})
    return FeatureStatistics.from_sums(total).covariance()


def noisy_spectra(d: int = 64, num_clients: int = 10) -> list[Row]:
    """What noise on the statistics does to a spectrum with eigenvalues from 1 to 1e-4."""
    rows = []
    for n in (10_000, 100_000, 1_000_000):
        features = decaying(100_000, d, smallest=1e-4)
        clip = float(torch.linalg.vector_norm(features, dim=1).quantile(0.95))
        truth = eigenvalues(FeatureStatistics.of(features).covariance())
        for epsilon in (1.0, 10.0):
            for split, kept in ((1, "alone"), (num_clients, "sum of 10")):
                private = PrivateStatistics(epsilon=epsilon, clip=clip, split=split)
                sums = FeatureStatistics.of(private.clipped(features)).sums()
                row, column = torch.triu_indices(d, d)
                scale = n / len(features)  # as if there were n of them
                sums = {name: leaf * scale for name, leaf in (sums | {"gram": sums["gram"][row, column]}).items()}
                zero = {name: torch.zeros_like(leaf) for name, leaf in sums.items()}
                noise = [private.noisy(zero, seed=client) for client in range(num_clients)]
                for each in noise:
                    sums = add(sums, each)
                sums["count"] = sums["count"].round()
                found = eigenvalues(statistics_of(sums, noisy=True).covariance())
                report = private.of_sum(num_clients=num_clients, num_features=d, num_examples=n)
                rows.append(
                    {
                        "examples": n,
                        "epsilon": epsilon,
                        "private": kept,
                        "noise_floor": report.noise_floor,
                        "largest_eigenvalue_error": float((found[0] - truth[0]) / truth[0]),
                        "effective_rank": effective_rank(found),
                        "true_effective_rank": effective_rank(truth),
                    }
                )
    return rows


def accuracy(rounds: int = 30, num_clients: int = 100) -> list[Row]:
    """Accuracy on digits with clipped and noisy means, every client in every round."""
    rows = []
    table: dict[str, Any] = {
        "data": {"name": "digits"},
        "partition": {"name": "dirichlet", "alpha": 1.0, "min_examples": 3},
        "model": "mlp",
        "num_clients": num_clients,
        "rounds": rounds,
        "client": {"epochs": 1, "batch_size": 10, "optimizer": {"name": "sgd", "lr": 0.1}},
        "evaluation": {"every": rounds, "local_every": 0},
        "engine": "serial",
    }
    for clip, noise in ((math.inf, 0.0), (0.3, 0.0), (0.3, 1.0), (0.3, 5.0), (0.3, 20.0)):
        private = PrivateMean(clip=clip, noise_multiplier=noise)
        experiment = from_table(
            table | {"aggregate": {"name": "private_mean", "clip": clip, "noise_multiplier": noise}}
        )
        records = [record for record, _ in prepare(experiment).run()]
        found = spent(private, (record.cohort for record in records))
        norms = [client.delta_norm for client in records[1].clients]
        rows.append(
            {
                "clip": clip,
                "noise_multiplier": noise,
                "epsilon": found.epsilon,
                "accuracy": records[-1].evaluation.accuracy,
                "median_norm_round_1": statistics.median(norms),
            }
        )
    return rows


def main() -> None:
    """Print the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["sum", "eigenvalues", "noise", "accuracy"])
    parser.add_argument("--clients", type=int, nargs="+", default=[5, 20, 50])
    parser.add_argument("--numbers", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    parts: dict[str, Callable[[], list[Row]]] = {
        "sum": lambda: [secure_sum(n, count) for count in arguments.numbers for n in arguments.clients],
        "eigenvalues": eigenvalue_error,
        "noise": noisy_spectra,
        "accuracy": accuracy,
    }
    found = {}
    for part in arguments.parts:
        found[part] = parts[part]()
        print(part)
        for row in found[part]:
            print(
                "  "
                + "  ".join(
                    f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
                )
            )
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
