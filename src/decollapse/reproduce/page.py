"""All tables of a grid, with titles; as one page of Markdown, with what a reader has to know."""

from __future__ import annotations

from collections.abc import Sequence

from decollapse.reproduce.departures import departures
from decollapse.reproduce.gains import best_table, gains_table
from decollapse.reproduce.outline import duration
from decollapse.reproduce.protocol import data_entries
from decollapse.reproduce.results import Results, machine
from decollapse.reproduce.times import Call
from decollapse.reproduce.writing import RANK, by_column_tables, own_table, published_table
from decollapse.tables import Table, as_markdown


def titled_tables(results: Results) -> list[tuple[str, Table]]:
    """Every table of a grid with its title; without the empty ones."""
    preset = results.grid.choice.preset
    found = [(f"{preset.title}: {preset.column.title}", own_table(results, preset.column))]
    if preset.measure == "accuracy":
        found += [(f"Accuracy (%) by {name}", table) for name, table in by_column_tables(results).items()]
        found.append((f"{RANK.title.capitalize()} of the global model's features", own_table(results, RANK)))
    found.append(("Beside the published numbers", published_table(results)))
    found.append(("Gained within a seed", gains_table(results)))
    found.append(("Each at its best value", best_table(results)))
    return [(title, table) for title, table in found if table.rows]


def as_page(results: Results, *, command: str, calls: Sequence[Call] = (), pictures: Sequence[str] = ()) -> str:
    """Every table in Markdown, with what a reader has to know, how long it took and the pictures beside the page."""
    choice = results.grid.choice
    spread = ", mean and standard deviation over seeds" if len(choice.seeds) > 1 else f", seed {choice.seeds[0]}"
    parts = [
        f"# {choice.preset.title}: {data_entries()[choice.dataset].title}, {choice.scale} scale",
        choice.preset.about,
        f"```console\n$ {command}\n```",
        "\n".join([_made(results), *map(_took, calls)]),
        *(f"![{choice.preset.title}{spread}]({picture})" for picture in pictures),
    ]
    parts += [f"## {title}\n\n{as_markdown(table).strip()}" for title, table in titled_tables(results)]
    if listed := departures(results.grid):
        parts.append("## Departures from the paper\n\n" + "\n".join(f"- {departure}" for departure in listed))
    return "\n\n".join(parts) + "\n"


def _took(call: Call) -> str:
    runs = f"{call.num_runs} runs, {call.at_once} at a time"
    return f"{runs}: estimated {duration(call.estimated)}, took {duration(call.took)}."


def _made(results: Results) -> str:
    views = list(results.views.values())
    hours = sum(view.seconds for view in views) / 3600
    runs = f"{len(views)} of {len(results.grid.runs)} runs"
    return f"{runs}, {hours:.2f} hours of one core or GPU; {'; '.join(machine(views))}."
