"""What a diagnosis costs: rounds with one, over rounds without, of the CIFAR-10 job of docs/results/cifar10.md.

    python benchmarks/diagnosis.py --data data/cifar10

One run; every second round is diagnosed, with the default probe, A B A B. A round is what its clients, its diagnosis
and its federated spectrum take, without evaluation on the test set. The middle half of the ratios shows the noise. One
process, one thread.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from decollapse.config import load_recipe
from decollapse.experiment import Experiment, prepare
from decollapse.simulation import RoundRecord

RECIPE = Path(__file__).parents[1] / "recipes" / "cifar10.toml"


def job(data: Path, *, pairs: int, epochs: int, federated: bool) -> Experiment:
    """Even rounds are measured, odd ones are not."""
    kind, other = ("federated_every", "local_every") if federated else ("local_every", "federated_every")
    settings = [f"data.name=npz:{data}", f"rounds={2 * pairs}", f"client.epochs={epochs}", "engine.name=serial"]
    settings += [f"evaluation.{kind}=2", f"evaluation.{other}=0", f"evaluation.every={2 * pairs}"]
    return load_recipe(RECIPE, settings)


def seconds(record: RoundRecord) -> float:
    """Of a round without its evaluation."""
    return record.seconds["total"] - record.seconds["evaluation"]


def ratios(experiment: Experiment) -> list[float]:
    """Each measured round over the round before it."""
    records = [record for record, _ in prepare(experiment).run()][1:]
    return [seconds(measured) / seconds(plain) for plain, measured in zip(records[::2], records[1::2], strict=True)]


def main() -> None:
    """Print the cost of a diagnosis, and of a federated spectrum."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/cifar10"))
    parser.add_argument("--pairs", type=int, default=5, help="of rounds")
    parser.add_argument("--epochs", type=int, default=10, help="of local training")
    options = parser.parse_args()
    for name, federated in (("diagnosis, default probe", False), ("federated spectrum, 64 features", True)):
        found = ratios(job(options.data, pairs=options.pairs, epochs=options.epochs, federated=federated))
        low, middle, high = statistics.quantiles(found, n=4)
        print(f"{name}: {100 * (middle - 1):+.1f} % of a round ({100 * (low - 1):+.1f} to {100 * (high - 1):+.1f})")


if __name__ == "__main__":
    main()
