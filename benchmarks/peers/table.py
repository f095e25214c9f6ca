"""Medians, spread and ratios of a comparison, as a value for JSON and as a Markdown table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import jobs
from processes import Result
from sides import SIDES

Name = tuple[str, str]
Found = Mapping[Name, Sequence[Result]]


def failed(results: Sequence[Result]) -> bool:
    """Whether the last run ended without a result."""
    return bool(results) and "error" in results[-1]


def succeeded(results: Sequence[Result]) -> list[Result]:
    """The runs that ended well."""
    return [result for result in results if "error" not in result]


def slower_than_another(name: Name, found: Found) -> bool:
    """Whether another variant of the same side was faster in the first turn."""
    firsts = {
        other: results[0]["seconds"]
        for other, results in found.items()
        if other[0] == name[0] and succeeded(results[:1])
    }
    return name in firsts and firsts[name] > min(firsts.values())


def in_short(result: Result) -> str:
    """A line of progress."""
    if "error" in result:
        return str(result["error"])
    return f"{result['seconds']:8.2f} s  accuracy {result['accuracy']:.3f}  {result['peak_mb']:7.0f} MB"


def summary(job: jobs.Job, found: Found, line: Mapping[str, Any]) -> dict[str, Any]:
    """Everything the table says, and the seconds it is made of."""
    rows = [row(name, results) for name, results in found.items()]
    starts = {round(result["start"], 6) for results in found.values() for result in succeeded(results)}
    if len(starts) > 1:
        raise ValueError(f"the sides did not start from the same model: sums of absolute weights are {sorted(starts)}.")
    timed = [entry for entry in rows if "seconds" in entry]
    for entry in timed:  # ours is the first row; where it did not run, the first that did
        entry["ratio"] = entry["seconds"] / timed[0]["seconds"]
    versions: dict[str, Any] = {}
    for results in found.values():
        for result in succeeded(results):
            versions |= result["versions"]
    where = {"machine": line["machine"], "date": line["date"], "versions": versions}
    return {"job": asdict(job), **where, "rows": rows}


def row(name: Name, results: Sequence[Result]) -> dict[str, Any]:
    """One variant of one side."""
    side, variant = name
    title = SIDES[side].title if side in SIDES else side
    entry: dict[str, Any] = {"side": side, "title": f"{title}, {variant}" if variant else title}
    good = succeeded(results)
    if not good:
        return entry | {"error": results[-1]["error"] if results else "not run"}
    seconds = [result["seconds"] for result in good]
    later = [second for result in good for second in result["seconds_a_round"][1:] or result["seconds_a_round"]]
    entry |= {
        "turns": len(good),
        "seconds": statistics.median(seconds),
        "seconds_all": seconds,
        "startup": statistics.median(result["startup"] for result in good),
        "first_round": statistics.median(result["seconds_a_round"][0] for result in good),
        "later_round": statistics.median(later),
        "accuracy": statistics.mean(result["accuracy"] for result in good),
        "accuracy_all": [result["accuracy"] for result in good],
        "peak_mb": statistics.median(result["peak_mb"] for result in good),
        "wall": statistics.median(result["wall"] for result in good),
    }
    if failed(results):
        entry["note"] = results[-1]["error"]
    return entry


def markdown(summary: Mapping[str, Any]) -> str:
    """The table with what it takes to repeat it."""
    job, machine = summary["job"], summary["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    lines = [
        f"{job['title']}; {job['rounds']} rounds. {summary['date']}, commit {machine['commit']}, {machine['cores']} "
        f"cores of {machine['processor']}; {versions}.",
        "",
        "| side | seconds (least to most; runs) | times the first | start-up | first round | later rounds | "
        "accuracy | memory, MB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for entry in summary["rows"]:
        if "error" in entry:
            lines.append(f"| {entry['title']} | did not run: {entry['error']} | | | | | | |")
            continue
        spread = f"{min(entry['seconds_all']):.2f} to {max(entry['seconds_all']):.2f}"
        times = f"{entry['startup']:.2f} | {entry['first_round']:.3f} | {entry['later_round']:.3f}"
        title = entry["title"] + (f" (then: {entry['note']})" if "note" in entry else "")
        lines.append(
            f"| {title} | {entry['seconds']:.2f} ({spread}; {entry['turns']}) | {entry['ratio']:.2f} | {times} | "
            f"{entry['accuracy']:.3f} | {entry['peak_mb']:.0f} |"
        )
    return "\n".join(lines) + "\n"
