"""This package beside its peers, in one run: same model, data, split, cohorts, steps, evaluations and cores.

    python benchmarks/peers/compare.py --job b --data data/cifar10
    python benchmarks/peers/compare.py --job c --sides decollapse by_hand flower --turns 3
    python benchmarks/peers/compare.py --job a --small --data data/cifar10     # does everything run? in minutes

a  pfl's CIFAR-10 recipe            b  the paper's cross-silo shape, with FedDecorr
c  many tiny clients                d  federations of any size, this package alone

The sides take turns, A B A B. Every run is a process of its own, on --cores cores; its line is added to
docs/results/speed/NAME.jsonl when it ends, and is not run again while its job, its options and, for this package's own
side, its source are the same: interrupt and go on as you like, and use --fresh for a run in one piece. The table, and
JSON with medians and spread, stand beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import jobs
import processes
import table
from sides import HERE, SIDES, Side, usual

ROOT = HERE.parent.parent
SOURCE = ROOT / "src"


@dataclass(frozen=True)
class Run:
    """One variant of one side, ready to be started.

    Attributes:
        side: its name.
        variant: how it is tried.
        job: what it is given.
        contender: its script and environment.
        arguments: behind the problem's file.
        source: a digest of this package's source, for its own side; changes make old lines void.
    """

    side: str
    variant: str
    job: jobs.Job
    contender: Side
    arguments: tuple[str, ...]
    source: str = ""

    def key(self, turn: int) -> dict[str, Any]:
        """What a stored line must agree in to stand for this run."""
        return {
            "side": self.side,
            "variant": self.variant,
            "job": self.job.digest,
            "arguments": list(self.arguments),
            "source": self.source,
            "turn": turn,
        }


def runs(args: argparse.Namespace) -> Iterator[Run]:
    """Every variant of every side, in the order of the table."""
    settings = [word for setting in args.set for word in ("--set", setting)]
    if args.job == "d":
        for name, (num_clients, cohort) in jobs.SCALES.items():
            job = shortened(jobs.scale(num_clients, cohort), args)
            yield Run(name, ", ".join(args.set), job, SIDES["decollapse"], tuple(settings), digest_of_source())
        return
    job = shortened(jobs.SMALL[args.job] if args.small else jobs.JOBS[args.job], args)
    for name in args.sides or usual(args.job):
        side = SIDES[name]
        ours = name.startswith("decollapse")
        given = replace(job, beta=0.0) if name == "decollapse_off" else job
        for variant, arguments in side.variants.items():
            if ours:
                yield Run(name, ", ".join(args.set), given, side, tuple(settings), digest_of_source())
            else:
                yield Run(name, variant, given, side, arguments)


def shortened(job: jobs.Job, args: argparse.Namespace) -> jobs.Job:
    """The job with the number of rounds, and the data, that the command line asks for."""
    if args.data == Path("noise") and job.data == "cifar10":
        job = replace(job, data="noise", train_size=None, test_size=None)
    if args.rounds is None:
        return job
    return replace(job, rounds=args.rounds, evaluate_every=min(job.evaluate_every, args.rounds))


def digest_of_source() -> str:
    """Of every module of this package."""
    digest = hashlib.blake2b(digest_size=6)
    for path in sorted((SOURCE / "decollapse").rglob("*.py")):
        digest.update(path.relative_to(SOURCE).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


class Lines:
    """The lines stored so far."""

    def __init__(self, path: Path, *, fresh: bool) -> None:
        self.path = path
        if fresh:
            path.unlink(missing_ok=True)
        self.all: list[dict[str, Any]] = []
        if path.exists():
            self.all = [json.loads(line) for line in path.read_text().splitlines()]

    def find(self, run: Run, turn: int) -> dict[str, Any] | None:
        """The result of a run that ended well."""
        key = run.key(turn)
        matches = [line for line in self.all if line["key"] == key and "error" not in line["result"]]
        return matches[-1]["result"] if matches else None

    def add(self, run: Run, turn: int, result: processes.Result, cores: set[int]) -> None:
        """Store a result at once."""
        line = {"key": run.key(turn), "result": result, "machine": machine(cores), "date": date.today().isoformat()}
        self.all.append(line)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def machine(cores: set[int]) -> dict[str, Any]:
    """Where, and with which commit."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    load = os.getloadavg()[0]
    where = {"processor": model, "cores": len(cores), "system": platform.platform()}
    return where | {"commit": commit.stdout.strip(), "load_before": round(load, 2)}


def measure(args: argparse.Namespace, lines: Lines) -> dict[tuple[str, str], list[processes.Result]]:
    """All turns; the results of each variant of each side, those that failed among them."""
    cores = set(sorted(os.sched_getaffinity(0))[: args.cores])
    found: dict[tuple[str, str], list[processes.Result]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(args.turns):
            for run in runs(args):
                name = (run.side, run.variant)
                results = found.setdefault(name, [])
                if turn and (table.failed(results) or table.slower_than_another(name, found)):
                    continue
                result = lines.find(run, turn)
                if result is None:
                    result = start(run, args, cores, Path(folder))
                    lines.add(run, turn, result, cores)
                results.append(result)
                print(f"turn {turn + 1}  {run.side:18} {run.variant:22} {table.in_short(result)}", flush=True)
    return found


def start(run: Run, args: argparse.Namespace, cores: set[int], folder: Path) -> processes.Result:
    """One run, on the problem's file, which is written when it is first needed."""
    reason = run.contender.cannot.get(args.job) or run.contender.missing
    if reason:
        return {"error": reason}
    problem = folder / f"{run.job.digest}.npz"
    if not problem.exists():
        jobs.write(run.job, args.data, problem)
    command = [str(run.contender.python), str(HERE / run.contender.script), str(problem), *run.arguments]
    paths = {"PYTHONPATH": os.pathsep.join([str(SOURCE), str(HERE)])}
    return processes.run(command, cores=cores, limit=args.limit, environment=paths, folder=folder)


def main() -> None:
    """Measure, store, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", choices=[*jobs.JOBS, "d"], required=True)
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), help="the usual ones of the job unless given")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rounds", type=int, help="instead of the job's own number")
    parser.add_argument("--small", action="store_true", help="a small version of the job: does everything run?")
    parser.add_argument("--data", type=Path, default=Path("data/cifar10"), help="CIFAR-10, train.npz and test.npz")
    parser.add_argument("--cores", type=int, default=2, help="that every side may use")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds until a run is stopped")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of our recipe, as of `run`")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/speed", help="a folder for the results")
    parser.add_argument("--name", help="of the files of results; the job's unless given")
    parser.add_argument("--fresh", action="store_true", help="forget the lines stored under this name")
    args = parser.parse_args()
    if args.data != Path("noise"):
        args.data = args.data.resolve()

    args.out.mkdir(parents=True, exist_ok=True)
    name = args.name or (f"{args.job}_small" if args.small else args.job)
    lines = Lines(args.out / f"{name}.jsonl", fresh=args.fresh)
    found = measure(args, lines)
    job = next(runs(args)).job
    summary = table.summary(job, found, lines.all[-1])
    text = table.markdown(summary)
    (args.out / f"{name}.json").write_text(json.dumps(summary, indent=1) + "\n")
    (args.out / f"{name}.md").write_text(text)
    print("\n" + text)


if __name__ == "__main__":
    main()
