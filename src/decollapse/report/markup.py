"""Building blocks of the page: text is escaped here and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from decollapse.report.charts import Chart, Stroke


def inline(words: str) -> str:
    """Text as markup, with every number kept on the line of the word before it.

    >>> inline("a < 0.1") == "a &lt;\N{NO-BREAK SPACE}0.1"
    True
    """
    return escape(re.sub(r" (?=[\d.])", "\N{NO-BREAK SPACE}", words))


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    caption: str = "",
    marks: Sequence[str] = (),
    sortable: bool = False,
) -> str:
    """A table of text that scrolls by itself on a narrow screen; numbers are set to the right.

    Args:
        headings: one for each column; the first column heads the rows.
        rows: cells, as text.
        caption: what the table shows.
        marks: markup put before the first cell of each row, such as `swatch`.
        sortable: whether a click on a heading sorts the rows.
    """
    head = "".join(f'<th scope="col">{escape(words)}</th>' for words in headings)
    lines = []
    for number, (first, *rest) in enumerate(rows):
        mark = marks[number] if marks else ""
        cells = "".join(f"<td>{escape(words)}</td>" for words in rest)
        lines.append(f'<tr><th scope="row">{mark}{inline(first)}</th>{cells}</tr>')
    # Not a <caption>: that would be as wide as the table and scroll with it.
    words = f'<p class="caption">{escape(caption)}</p>' if caption else ""
    kind = ' class="sortable"' if sortable else ""
    body = f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="table"><div class="scroll">{body}</div>{words}</div>'


def swatch(look: Stroke) -> str:
    """A short stroke in the look of a group's lines."""
    dash = {"solid": "", "dash": "7 4", "dashdot": "7 3 2 3", "longdash": "11 4", "dot": "2 3"}[look.dash]
    return (
        '<svg class="swatch" viewBox="0 0 28 10" aria-hidden="true">'
        f'<line x1="1" y1="5" x2="27" y2="5" stroke="{look.color}" stroke-width="3" stroke-dasharray="{dash}"/>'
        f"{_marker(look)}</svg>"
    )


def _marker(look: Stroke) -> str:
    points = {
        "square": "10,1 18,1 18,9 10,9",
        "diamond": "14,0 19,5 14,10 9,5",
        "triangle-up": "14,0 19,9 9,9",
        "triangle-down": "14,10 19,1 9,1",
        "cross": "12.5,0 15.5,0 15.5,3.5 19,3.5 19,6.5 15.5,6.5 15.5,10 12.5,10 12.5,6.5 9,6.5 9,3.5 12.5,3.5",
        "x": "10,0 14,3.5 18,0 19,1 15.5,5 19,9 18,10 14,6.5 10,10 9,9 12.5,5 9,1",
        "star": "14,0 15.3,3.6 19,3.6 16,6 17.2,10 14,7.6 10.8,10 12,6 9,3.6 12.7,3.6",
    }.get(look.symbol)
    if points is None:
        return f'<circle cx="14" cy="5" r="4" fill="{look.color}"/>'
    return f'<polygon points="{points}" fill="{look.color}"/>'


def figure(chart: Chart, *, classes: str = "", group: str | None = None) -> str:
    """The place where the page draws a chart, with its words."""
    height = chart.figure.layout.height
    owner = "" if group is None else f' data-group="{escape(group)}"'
    return (
        f'<figure class="{classes}"{owner}><h3>{inline(chart.title)}</h3><p class="caption">{escape(chart.caption)}</p>'
        f'<div class="chart" id="chart-{chart.key}" data-chart="{chart.key}" role="img" '
        f'aria-label="{escape(chart.title)}" style="height:{height}px"></div></figure>'
    )


def grid(charts: Sequence[Chart], *, owned: bool = False) -> str:
    """Charts side by side; `owned` ones are of the group they are titled by, and hidden with its curves."""
    return f'<div class="grid">{"".join(figure(chart, group=chart.title if owned else None) for chart in charts)}</div>'


def legend(groups: Sequence[tuple[str, Stroke]]) -> str:
    """One legend for all charts: a button for each group, of its label and look."""
    buttons = "".join(
        f'<button type="button" aria-pressed="true" data-group="{escape(label)}">{swatch(look)}{inline(label)}</button>'
        for label, look in groups
    )
    return f'<div class="legend" aria-label="Legend: click to hide or show">{buttons}</div>'


def block(title: str, words: str, *parts: str) -> str:
    """Charts that are read together, with how to read them; a control among the parts moves the frames of all."""
    return f'<div class="block"><h3>{inline(title)}</h3><p class="caption">{inline(words)}</p>{"".join(parts)}</div>'


def slider(name: str, frames: Sequence[str]) -> str:
    """A control for the frames of a block's charts, at the last one; nothing where there is nothing to move."""
    if len(frames) < 2:
        return ""
    last = len(frames) - 1
    return (
        f'<label class="control">{escape(name)} <input type="range" min="0" max="{last}" value="{last}" step="1" '
        f'data-frames="{escape(" ".join(frames))}" aria-valuetext="{escape(frames[-1])}">'
        f"<output>{escape(frames[-1])}</output></label>"
    )


def switch(name: str, frames: Sequence[str]) -> str:
    """Buttons for the frames of a block's charts, the first one pressed; nothing where there is nothing to choose."""
    if len(frames) < 2:
        return ""
    words = [escape(frame) for frame in frames]
    pressed = ["true", *["false"] * (len(frames) - 1)]
    buttons = "".join(
        f'<button type="button" aria-pressed="{state}" data-frame="{word}">{word}</button>'
        for word, state in zip(words, pressed, strict=True)
    )
    return f'<div class="control" role="group" aria-label="{escape(name)}">{buttons}</div>'


def section(title: str, *parts: str, identity: str) -> str:
    """A titled part of the page; nothing where there is nothing in it."""
    body = "".join(parts)
    return f'<section id="{identity}"><h2>{escape(title)}</h2>{body}</section>' if body else ""


def folded(title: str, body: str) -> str:
    """Something to open with a click."""
    return f"<details><summary>{inline(title)}</summary>{body}</details>"


def paragraphs(lines: Sequence[str], *, classes: str = "") -> str:
    """Each line as a paragraph."""
    return "".join(f'<p class="{classes}">{inline(line)}</p>' for line in lines)


def code(text: str) -> str:
    """Text to copy into a terminal or a file."""
    return f"<pre><code>{escape(text)}</code></pre>"
