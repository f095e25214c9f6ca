"""The diagnosis of a run, from its folder.

Its source is the first that there is: the diagnosis in `records.jsonl`; the eigenvalues of local models in `spectra/`,
in runs from before rounds were diagnosed; the checkpoint, whose model is measured here, without local ones; the
eigenvalues of the global model alone. The verdict is made anew from the evidence, so that all runs are judged by the
same rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from statistics import median
from typing import Any

import torch

from decollapse.diagnose.finding import Finding, RankRow, of_one_model
from decollapse.diagnosis.attribution import Ranks
from decollapse.diagnosis.caveats import caveats
from decollapse.diagnosis.verdict import Evidence, judge
from decollapse.experiment import prepare
from decollapse.report.eigenvalues import GlobalSpectra, LocalSpectra, RoundSpectra, by_round
from decollapse.report.view import Record, RunView, lookup, read_run
from decollapse.runs import RunFolder, RunFolderError, find_runs
from decollapse.server_state import ServerState, own_models
from decollapse.spectrum import effective_rank


def diagnose_runs(paths: Sequence[Path], *, round: int | None = None, against: Path | None = None) -> list[Finding]:
    """Judge every run at `paths` and below them, in the order of their paths.

    Args:
        paths: run folders, or folders of run folders.
        round: which one; None takes the last that was measured.
        against: the folder of a run known to be healthy, on the same data with the same model.

    Raises:
        ValueError: there is no such run or round, nothing of it was measured, or a file is damaged.
    """
    found = [diagnose_run(folder, round=round) for folder in find_runs(paths)]
    return found if against is None else [finding.against(reference(against)) for finding in found]


def reference(path: Path) -> Finding:
    """The finding on the run that others are compared with.

    Raises:
        ValueError: there is no run, there are several, or it was not measured.
    """
    found = find_runs([path])
    if len(found) > 1:
        raise RunFolderError(f"{path} holds {len(found)} runs; name the one to compare with.")
    return diagnose_run(found[0])


def diagnose_run(folder: RunFolder, *, round: int | None = None) -> Finding:
    """Judge one run; see the module for where its numbers are from."""
    run = read_run(folder.path)
    record = _record(run, round)
    spectra = next(iter(by_round(folder.path, [int(record["round"])])), None) if record else None
    if record is not None and isinstance(record.get("diagnosis"), Mapping):
        return _from_diagnosis(run, record, spectra)
    state = folder.load()
    at_hand = state is not None and round in (None, state.round)
    if record is not None and spectra is not None and spectra.averaged is not None and (spectra.local or not at_hand):
        return _from_spectra(run, record, spectra.averaged, spectra.local)
    if state is None or not at_hand:
        which = "any round" if round is None else f"round {round} (measured: {', '.join(map(str, _diagnosed(run)))})"
        kept = "there is no checkpoint" if state is None else f"the checkpoint is of round {state.round}"
        raise RunFolderError(f"{folder.path}: nothing was measured of {which}, and {kept}.")
    return _from_checkpoint(folder, state)


def _record(run: RunView, round: int | None) -> Record | None:
    """The record of `round`; or the last one with a diagnosis, else with spectra of local models, else with any."""
    if round is None:
        known = [*_diagnosed(run)[-1:], *(spectra.round for spectra in (run.local_spectra, run.spectra) if spectra)]
        return next((record for record in run.records if record["round"] in known[:1]), None)
    found = [record for record in run.records if record["round"] == round]
    if not found:
        raise RunFolderError(f"{run.folder} has no round {round}; its rounds are 0 to {run.last_round}.")
    return found[0]


def _diagnosed(run: RunView) -> list[int]:
    return [record["round"] for record in run.records if isinstance(record.get("diagnosis"), Mapping)]


def _from_diagnosis(run: RunView, record: Record, spectra: RoundSpectra | None) -> Finding:
    found = record["diagnosis"]
    try:
        names = {field.name for field in fields(Evidence)}
        known = {name: value for name, value in found["evidence"].items() if name in names}
        evidence = Evidence(**known | {"local_ranks": tuple(known["local_ranks"])})
        covariance, correlation = (Ranks(**found["attribution"][kind]) for kind in ("covariance", "correlation"))
    except (KeyError, TypeError) as error:
        raise RunFolderError(f"{run.folder}: the diagnosis of round {record['round']} is damaged ({error}).") from None
    rows = (
        RankRow("averaged model", covariance.averaged, correlation.averaged),
        RankRow(_local(evidence), median(covariance.local), median(correlation.local)),
        RankRow("local models side by side", covariance.concatenated, correlation.concatenated),
        RankRow("mean of their features", covariance.mean, correlation.mean),
    )
    alignment = {
        "cka_between": lookup(found, "attribution", "alignment", "cka_between"),
        "agreement": lookup(found, "drift", "agreement"),
        "lost_variance": found.get("lost_variance"),
    }
    return _finding(
        run,
        record,
        evidence,
        rows,
        spectra.averaged if spectra else None,
        measures=found.get("neural_collapse"),
        alignment=alignment,
    )


def _from_spectra(run: RunView, record: Record, averaged: GlobalSpectra, local: LocalSpectra | None) -> Finding:
    rank, of_correlation = (
        effective_rank(torch.from_numpy(values)) for values in (averaged.covariance, averaged.correlation)
    )
    ranks = tuple(effective_rank(torch.from_numpy(values)) for values in local.covariance) if local else ()
    sizes = [lookup(client, "spectrum", "num_examples") for client in record.get("clients") or ()]
    sizes.append(lookup(record, "spectrum", "num_examples"))
    evidence = Evidence(
        num_examples=min((int(size) for size in sizes if size), default=0),
        num_features=len(averaged.covariance),
        num_classes=len(run.classes),
        num_dead=int(lookup(record, "spectrum", "num_dead") or 0),
        averaged_rank=rank,
        local_ranks=ranks,
    )
    rows = [RankRow("averaged model", rank, of_correlation)]
    rows += [RankRow(_local(evidence), median(ranks), None)] if ranks else []
    return _finding(run, record, evidence, rows, averaged)


def _federated(record: Record) -> list[RankRow]:
    """The averaged model on the clients' own training examples, where they were asked."""
    if (found := lookup(record, "federated", "spectrum")) is None:
        return []
    name = f"on {found['num_examples']:,} examples of {lookup(record, 'federated', 'num_clients')} clients"
    missing = float(lookup(record, "federated", "covariance_missing") or 0.0)
    if missing > 0:
        name += f" ({missing / (missing + found['covariance']['total']):.0%} not in the sketch)"
    return [RankRow(name, *(found[kind]["effective_rank"] for kind in ("covariance", "correlation")))]


def _local(evidence: Evidence) -> str:
    return f"local models (median of {len(evidence.local_ranks)})"


def _finding(
    run: RunView,
    record: Record,
    evidence: Evidence,
    ranks: Sequence[RankRow],
    averaged: GlobalSpectra | None,
    *,
    measures: Mapping[str, Any] | None = None,
    alignment: Mapping[str, Any] | None = None,
) -> Finding:
    accuracy = lookup(record, "evaluation", "accuracy")
    return Finding(
        subject=str(run.folder),
        source=f"round {record['round']}",
        verdict=judge(evidence),
        evidence=evidence,
        ranks=(*ranks, *_federated(record)),
        neural_collapse=measures or lookup(record, "federated", "neural_collapse") or {},
        alignment=alignment or {},
        accuracy=accuracy,
        spectrum=tuple(averaged.covariance.tolist()) if averaged else (),
        caveats=caveats(
            evidence,
            accuracy=accuracy,
            num_missing=max(len(run.classes) - evidence.num_classes, 0),
            untrained=record["round"] == 0,
        ),
    )


def _from_checkpoint(folder: RunFolder, state: ServerState) -> Finding:
    """Measure the global model on the run's own probe."""
    experiment = folder.experiment
    if own_models(state, experiment.algorithm):
        raise RunFolderError(f"{folder.path}: its clients keep models of their own, and there is no averaged one.")
    prepared = prepare(experiment)
    if folder.description.get("fingerprint") not in (None, prepared.fingerprint):
        raise RunFolderError(f"the data {experiment.data.name!r} are not those {folder.path} began with.")
    with torch.random.fork_rng(devices=[]):
        model = prepared.build_model().to(getattr(torch, experiment.engine.dtype))
    weights = state.evaluated(experiment.algorithm)
    weights.load_into(model)
    output = prepared.probe.output(model)
    if output is None:
        raise RunFolderError(f"{folder.path}: features of round {state.round} are NaN or infinite; it has diverged.")
    return of_one_model(
        output,
        prepared.probe,
        subject=str(folder.path),
        source=f"round {state.round}, without local models",
        head=weights.params.get("head.weight"),
        untrained=state.round == 0,
    )
