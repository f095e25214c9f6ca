"""Pictures for a paper: where they go, what they need, what their colours are."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from decollapse.pictures import (
    PALETTE,
    Look,
    MatplotlibMissingError,
    axes_in_rows,
    colors,
    legend,
    legend_columns,
    save_picture,
)


def draw() -> Figure:
    figure, (axis,) = axes_in_rows(1)
    axis.plot([0, 1], [0, 1], **Look("#123456").style)
    axis.set(xlabel="a < b & c")
    legend(figure, [("one", Look("#123456"))])
    return figure


def test_a_picture_is_an_svg_with_text_and_a_png_and_repeats_its_bytes(tmp_path: Path) -> None:
    svg, png = save_picture(draw, tmp_path / "new" / "picture", title="A line")
    assert (svg.name, png.name) == ("picture.svg", "picture.png")
    words = [element.text for element in ElementTree.parse(svg).iter() if element.text]
    assert {"A line", "a < b & c", "one"} <= set(words)
    assert png.read_bytes().startswith(b"\x89PNG")
    before = svg.read_bytes(), png.read_bytes()
    save_picture(draw, tmp_path / "new" / "picture", title="A line")
    assert (svg.read_bytes(), png.read_bytes()) == before
    assert b"date" not in before[0]


def test_the_settings_of_matplotlib_are_left_as_they_were(tmp_path: Path) -> None:
    from matplotlib import rcParams

    before = dict(rcParams)
    save_picture(draw, tmp_path / "picture", title="A line")
    assert dict(rcParams) == before


def test_without_matplotlib_nothing_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MatplotlibMissingError, match="pip install 'decollapse\\[figures\\]'"):
        save_picture(draw, tmp_path / "new" / "picture", title="A line")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [1, 2, 4, 6, 9])
def test_colours_differ_and_run_from_the_first_of_the_palette_to_the_last(count: int) -> None:
    found = colors(count)
    assert len(set(found)) == len(found) == count
    assert found[0] == PALETTE[0]
    assert count == 1 or found[-1] == PALETTE[-1]


@pytest.mark.parametrize("count", [2, 4, 6, 9])
def test_colours_grow_darker_step_by_step_so_that_they_print_in_grey(count: int) -> None:
    lightness = [sum(w * int(c[i : i + 2], 16) for w, i in ((0.299, 1), (0.587, 3), (0.114, 5))) for c in colors(count)]
    assert lightness == sorted(lightness, reverse=True)


def test_a_legend_that_is_too_wide_for_one_row_has_columns_that_fit() -> None:
    assert legend_columns(["a = 0.05"] * 4, 7.0) == 4
    assert legend_columns(["a label of forty letters, more or less it"] * 4, 7.0) == 2
    assert legend_columns(["x" * 200] * 3, 7.0) == 1
