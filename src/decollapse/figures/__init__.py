"""The figures of the paper, drawn from runs: spectra of global and local models, significant dimensions, features.

    study.py     the runs of the paper's figures, to be trained first
    panels.py    which run goes where
    numbers.py   spectra averaged over seeds, dimensions above a threshold
    sphere.py    features of test examples on the unit sphere
    page.py      all of it as one HTML page; charts.py draws it
    drawing.py   all of it as SVG and PNG, where matplotlib is installed

`decollapse figures` does it all; docs/figures.md shows what comes out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from decollapse.checkpoint import write_atomically
from decollapse.pictures import MatplotlibMissingError


def write_figures(
    folders: Sequence[Path], out: Path, *, absolute: bool = False, data: str | None = None
) -> tuple[list[Path], list[str]]:
    """Draw the runs in `folders`: figures.html, figures.json and, where matplotlib is installed, SVG and PNG pictures.

    Args:
        folders: run folders. Unfinished and diverged runs are left out.
        out: a folder; it is made.
        absolute: draw eigenvalues as they are, as the paper does; else each spectrum is divided by its largest, so that
            the scale of the features does not count.
        data: where the data are now, if not where they were when the runs were trained; for the sphere.

    Returns:
        The files that were written, and a sentence for everything that was left out.

    Raises:
        ValueError: no run can be drawn, or a file is damaged.
    """
    # Imported here: torch and plotly cost seconds.
    from decollapse.figures.drawing import save_figures
    from decollapse.figures.numbers import as_table, measured
    from decollapse.figures.page import figures_page
    from decollapse.figures.panels import panels_of, usable, without_locals
    from decollapse.figures.sphere import spheres_of
    from decollapse.report.view import read_run

    runs, notes = usable([read_run(folder) for folder in folders])
    if not runs:
        raise ValueError(f"there is no run to draw: {' '.join(notes) or 'no folder was given.'}")
    panels = panels_of(runs)
    spheres, missing = spheres_of(panels, data=data)
    notes += [*without_locals(panels), *missing]
    found = measured(panels, absolute=absolute)
    out.mkdir(parents=True, exist_ok=True)
    page, table = out / "figures.html", out / "figures.json"
    write_atomically(page, figures_page(found, spheres, notes).encode())
    write_atomically(table, (json.dumps(as_table(found, spheres), indent=1, ensure_ascii=False) + "\n").encode())
    try:
        pictures = save_figures(found, spheres, out)
    except MatplotlibMissingError as error:
        return [page, table], [*notes, str(error)]
    return [page, table, *pictures], notes
