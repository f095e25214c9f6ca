"""Every method with and without FedDecorr on CIFAR-10, and the table of what came out.

python scripts/methods_table.py --data data/cifar10          runs what is missing, then writes docs/results/methods.md
python scripts/methods_table.py --table                      writes the table from the runs there are

One JSON line a run goes to docs/results/methods.jsonl as soon as it is done; stopped, the command goes on there. Runs
take a core each; `--workers` of them at the same time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path("docs/results/methods.jsonl")
TABLE = Path("docs/results/methods.md")
TERMS = Path("docs/results/terms.json")

SETTING = [
    "data.train_size=5000",
    "data.test_size=2000",
    "client.batch_size=32",
    "client.optimizer.lr=0.05",
    "rounds=10",
    "engine=serial",
    "evaluation.every=10",
    "evaluation.local_every=0",
]
MODEL = ["model.name=resnet8", "model.width=8"]
"""A wrapped model has these under `body`."""
PARTITIONS = {"IID": ["partition=iid"], "Dirichlet 0.1": ["partition=dirichlet", "partition.alpha=0.1"]}
FEDDECORR = {"": [], "+ FedDecorr": ["client.objective.feddecorr.beta=0.1"]}
COVARIANCE = ["client.objective.feddecorr.beta=0.03", "client.objective.feddecorr.matrix=covariance"]
"""FedDecorr where there is no BatchNorm, see docs/feddecorr.md."""
WITHOUT_BATCHNORM = ("GroupNorm", "LayerNorm", "GroupNorm, weight standardisation")
SEEDS = (0, 1)

STAGES = 'layers=["encoder.stage1","encoder.stage2","encoder.stage3"]'
METHODS: dict[str, dict[str, list[str]]] = {
    "Baselines": {
        "FedAvg": [],
        "centralised": ["num_clients=1"],
        "clients alone": ["algorithm=clients_only"],
    },
    "The paper and its release": {
        "FedAvgM": ["algorithm=fedavgm", "algorithm.momentum=0.5"],
        "FedAvgM, damped": ["algorithm=fedavgm", "algorithm.compat=release"],
        "FedProx": ["algorithm=fedprox"],
        "MOON": ["algorithm=moon"],
        "MOON with projector": [
            "algorithm=moon",
            "model.name=projected",
            *(setting.replace("model", "model.body", 1) for setting in MODEL),
            "model.widths=[64,32]",
        ],
        "FedNova": ["algorithm=fednova"],
        "FedAdagrad": ["algorithm=fedadagrad", "algorithm.lr=0.1"],
        "FedAdam": ["algorithm=fedadam", "algorithm.lr=0.1"],
        "FedYogi": ["algorithm=fedyogi", "algorithm.lr=0.1"],
        "FedExP": ["algorithm=fedexp"],
        "FedRS": ["algorithm=fedrs"],
        "FedLC, tau 0.1 (logit calibration)": ["algorithm=fedlc", "algorithm.compat=release"],
        "FedSAM": ["algorithm=fedsam"],
    },
    "Rivals": {
        "SCAFFOLD": ["algorithm=scaffold"],
        "FedDyn": ["algorithm=feddyn", "algorithm.alpha=0.1"],
        "FedNTD": ["algorithm=fedntd"],
        "FedLC": ["algorithm=fedlc"],
        "FedVLS": ["algorithm=fedvls"],
        "FedETF": [
            "algorithm=fedetf",
            "model.name=simplex_classifier",
            *(setting.replace("model", "model.body", 1) for setting in MODEL),
            "model.scale=5.0",
        ],
        "FedUV": ["algorithm=feduv"],
        "FedMR": ["algorithm=fedmr"],
        "FedACG": ["algorithm=fedacg"],
        "FedRCL": ["algorithm=fedrcl", f"algorithm.{STAGES}"],
        "FedBN": ["algorithm=fedbn"],
        "FedBABU": ["algorithm=fedbabu"],
        "GroupNorm": ["model.norm=group"],
        "LayerNorm": ["model.norm=layer"],
        "GroupNorm, weight standardisation": [
            "model.name=weight_standardized",
            *(setting.replace("model", "model.body", 1) for setting in MODEL),
            "model.body.norm=group",
        ],
    },
    "Other decorrelation losses": {
        "adaptive FedDecorr, target 15": ["client.objective.adaptive_feddecorr.target=15.0"],
        "FedDecorr on three stages": [
            "client.objective.feddecorr.beta=0.1",
            f"client.objective.feddecorr.{STAGES}",
        ],
        "FedDecorr, cosine schedule": [
            "client.objective.feddecorr.beta=0.1",
            "client.objective.feddecorr.schedule.name=cosine",
            "client.objective.feddecorr.schedule.rounds=10",
        ],
        "VICReg variance and covariance": [
            "client.objective.variance_hinge=true",
            "client.objective.covariance_penalty=true",
        ],
        "DeCov": ["client.objective.decov=true"],
        "Barlow Twins, one view": ["client.objective.barlow_twins=true"],
        "uniformity": ["client.objective.uniformity=true"],
        "KoLeo": ["client.objective.koleo=true"],
        "log-determinant": ["client.objective.log_determinant=true"],
        "eigenvalue variance": ["client.objective.eigenvalue_variance=true"],
    },
    "Robust aggregation": {
        "coordinate median": ["aggregate=coordinate_median"],
        "trimmed mean": ["aggregate=trimmed_mean"],
        "Krum": ["aggregate=krum", "aggregate.num_byzantine=2"],
        "Multi-Krum, 6 of 10": ["aggregate=krum", "aggregate.num_byzantine=2", "aggregate.num_selected=6"],
        "geometric median": ["aggregate=geometric_median"],
        "norm clipping": ["aggregate=norm_clipping", "aggregate.max_norm=5.0"],
    },
}


def all_runs() -> Iterator[dict[str, Any]]:
    """Every run, the most telling ones first: all methods at one seed before any at the next."""
    for seed in SEEDS:
        for partition, dealt in PARTITIONS.items():
            for group, methods in METHODS.items():
                for method, settings in methods.items():
                    for feddecorr, penalty in FEDDECORR.items():
                        if feddecorr and any("objective.feddecorr." in setting for setting in settings):
                            continue
                        if penalty and method in WITHOUT_BATCHNORM:
                            penalty = COVARIANCE
                        model = [] if any(setting.startswith("model.name=") for setting in settings) else MODEL
                        overrides = [*SETTING, *dealt, *model, *settings, *penalty, f"seed={seed}"]
                        key = {"group": group, "method": method, "feddecorr": feddecorr, "partition": partition}
                        yield {**key, "seed": seed, "settings": overrides}


def train(job: tuple[dict[str, Any], Path]) -> dict[str, Any]:
    """One run, to the line that is kept of it."""
    import torch

    from decollapse.config import load_recipe
    from decollapse.experiment import prepare
    from decollapse.spectrum import effective_rank

    torch.set_num_threads(1)
    run, data = job
    experiment = load_recipe(None, [f'data.name="npz:{data}"', *run["settings"]])
    records = [record for record, _ in prepare(experiment).run()]
    last = records[-1]
    assert last.evaluation is not None
    spectrum = last.evaluation.spectrum
    return {
        **run,
        "accuracy": last.evaluation.accuracy,
        "loss": last.evaluation.loss,
        "effective_rank": effective_rank(spectrum.covariance) if spectrum else None,
        "effective_rank_correlation": effective_rank(spectrum.correlation) if spectrum else None,
        "first_train_accuracy": statistics.fmean(c.metrics.get("accuracy", 0.0) for c in records[1].clients),
        "last_train_accuracy": statistics.fmean(c.metrics.get("accuracy", 0.0) for c in last.clients),
        "rejected": sum(len(record.rejected) for record in records),
        "seconds_a_round": statistics.median(record.seconds["clients"] for record in records[1:]),
        "machine": f"{platform.processor() or platform.machine()}, torch {torch.__version__}",
    }


def finished() -> dict[str, dict[str, Any]]:
    """The lines there are, by their settings: a changed setting is another run."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return {json.dumps(line["settings"]): line for line in map(json.loads, lines)}


def table() -> str:
    """The page."""
    done = finished()
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for run in all_runs():
        line = done.get(json.dumps(run["settings"]))
        if line:
            found.setdefault((run["method"], run["feddecorr"], run["partition"]), []).append(line)
    heads = [f"{name}: accuracy (%) | effective rank" for name in PARTITIONS]
    out = []
    for group, methods in METHODS.items():
        out += [f"### {group}", "", f"| method | {' | '.join(heads)} | s a round |"]
        out.append("|---" * (2 * len(PARTITIONS) + 2) + "|")
        for method in methods:
            for feddecorr in FEDDECORR:
                cells = [found.get((method, feddecorr, partition), []) for partition in PARTITIONS]
                if any(cells):
                    seconds = statistics.median(line["seconds_a_round"] for lines in cells for line in lines)
                    name = f"{method} {feddecorr}".strip()
                    numbers = [part for lines in cells for part in (percent(lines), rank(lines))]
                    out.append(f"| {name} | {' | '.join(numbers)} | {seconds:.1f} |")
        out.append("")
    return "\n".join(out)


def percent(lines: list[dict[str, Any]]) -> str:
    """Mean and half the range over seeds."""
    return spread([100 * line["accuracy"] for line in lines])


def rank(lines: list[dict[str, Any]]) -> str:
    """Mean and half the range over seeds; nothing where several models were evaluated."""
    return spread([line["effective_rank"] for line in lines if line["effective_rank"] is not None])


def spread(values: list[float]) -> str:
    """`mean ± half the range`."""
    if not values:
        return ""
    half = (max(values) - min(values)) / 2
    return f"{statistics.fmean(values):.1f}" + (f" ± {half:.1f}" if len(values) > 1 else "")


def main() -> None:
    """Run what is missing; write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/cifar10"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if not arguments.table:
        done = finished()
        missing = [(run, arguments.data) for run in all_runs() if json.dumps(run["settings"]) not in done]
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with multiprocessing.get_context("spawn").Pool(arguments.workers) as pool, RESULTS.open("a") as file:
            for number, line in enumerate(pool.imap_unordered(train, missing), start=1):
                file.write(json.dumps(line) + "\n")
                file.flush()
                left = (time.monotonic() - began) / number * (len(missing) - number) / 60
                print(
                    f"{number}/{len(missing)} {line['method']} {line['feddecorr']} {line['partition']}: "  # progress
                    f"{100 * line['accuracy']:.1f} %, {left:.0f} min left",
                    flush=True,
                )
    TABLE.write_text(HEAD.format(summary=summary()) + table() + "\n" + cost())


HEAD = """# Every method, with and without FedDecorr

CIFAR-10: 5,000 training and 2,000 test images, 10 clients, all of them in every round; ResNet-8 of width 8 with
BatchNorm (32 features); 10 rounds of one epoch, batch 32, SGD with lr 0.05 and momentum 0.9, no augmentation. Each
method at its defaults but for what `METHODS` in scripts/methods_table.py says; none was tuned. FedDecorr has beta 0.1,
and where there is no BatchNorm the covariance form with beta 0.03. Means over 2 seeds ± half their difference: the same
seed has the same split, cohorts and initial weights in every row. Chance is 10 %.

    python scripts/methods_table.py --data data/cifar10

These runs are from before FedDecorr's default fell with batches of less than 16 examples
([feddecorr.md](../feddecorr.md));
a client whose last batch has a few examples may have been thrown off in the rows with FedDecorr.

{summary}

Ten rounds are a beginning: the table shows that every method trains, what it costs, and which way FedDecorr moves it
here. It is no ranking. Differences of two or three points are within what a seed changes. "s a round" is the median
over runs that shared two cores with other work: 20 % is noise. The effective rank is of the global model's test
features; clients alone have no global model.

"""

COST = """### Cost of a term

Local training with the term over local training by cross-entropy alone, A B A B in one run, medians and the middle
half; `python benchmarks/terms.py --json docs/results/terms.json`: {settings}.

| term | ratio | middle half |
|---|---|---|
"""


def summary() -> str:
    """In how many methods FedDecorr raises accuracy and rank, by partition."""
    done, sentences = finished(), []
    lines = [done[json.dumps(run["settings"])] for run in all_runs() if json.dumps(run["settings"]) in done]
    for partition in PARTITIONS:
        found: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
        for line in lines:
            if line["partition"] == partition:
                found.setdefault((line["method"], line["seed"]), {})[line["feddecorr"]] = line
        pairs = [pair for pair in found.values() if len(pair) == 2]
        gains = [100 * (pair["+ FedDecorr"]["accuracy"] - pair[""]["accuracy"]) for pair in pairs]
        ranks = [(pair["+ FedDecorr"]["effective_rank"], pair[""]["effective_rank"]) for pair in pairs]
        raised = sum(ours > theirs for ours, theirs in ranks if ours is not None and theirs is not None)
        up, both = sum(gain > 0 for gain in gains), sum(None not in rank for rank in ranks)
        sentences.append(
            f"**{partition}**: of {len(pairs)} pairs of runs that differ in FedDecorr alone, it raises the accuracy of "
            f"{up} (mean change {statistics.fmean(gains):+.1f} points) and the effective rank of {raised} of {both}."
        )
    return "\n".join(sentences)


def cost() -> str:
    """The table of benchmarks/terms.py, if it was run."""
    if not TERMS.exists():
        return ""
    found = json.loads(TERMS.read_text())
    settings = ", ".join(f"{key} {value}" for key, value in found["settings"].items())
    rows = [
        f"| {row['term']} | {row['ratio']:.2f} | {row['ratio_low']:.2f} to {row['ratio_high']:.2f} |"
        for row in found["terms"]
    ]
    return COST.format(settings=settings) + "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
