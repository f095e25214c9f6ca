"""The same table in four formats; Markdown and CSV are read back by parsers of others."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from decollapse.tables import WRITERS, Cell, Heading, Table, as_csv, as_latex, as_markdown, as_text
from decollapse.tables.latex import COMMANDS
from decollapse.tables.text import print_table

METHOD = Heading("method", "method", align="left")
ACCURACY = Heading("accuracy", "accuracy (%)")
TABLE = Table(
    [METHOD, ACCURACY],
    [
        [Cell("FedAvg"), Cell("54.2 ± 0.8", {"mean": 54.2489, "std": 0.8391})],
        [Cell("FedAvg + FedDecorr 0.1"), Cell("58.0", {"mean": 57.95, "std": None}, strong=True)],
    ],
    notes=["One run has no spread."],
)
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | st.just(" "), max_size=12)


def plain(*texts: str) -> Table:
    """A table of one column, a row a text."""
    return Table([METHOD], [[Cell(text)] for text in texts])


def test_text_is_aligned_and_shows_notes_below() -> None:
    assert as_text(TABLE).splitlines() == [
        " method                   accuracy (%)",
        " ─────────────────────────────────────",
        " FedAvg                     54.2 ± 0.8",
        " FedAvg + FedDecorr 0.1           58.0",
        "One run has no spread.",
    ]


def test_markdown_is_aligned_in_its_source_and_puts_the_strong_in_bold() -> None:
    assert as_markdown(TABLE).splitlines() == [
        "| method                 | accuracy (%) |",
        "|:-----------------------|-------------:|",
        "| FedAvg                 |   54.2 ± 0.8 |",
        "| FedAvg + FedDecorr 0.1 |     **58.0** |",
        "",
        "One run has no spread.",
    ]


def test_latex_has_the_rules_of_booktabs() -> None:
    assert as_latex(TABLE).splitlines() == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"method & accuracy (\%) \\",
        r"\midrule",
        r"FedAvg & 54.2 $\pm$ 0.8 \\",
        r"FedAvg + FedDecorr 0.1 & \textbf{58.0} \\",
        r"\bottomrule",
        r"\end{tabular}",
        "% One run has no spread.",
    ]


def test_csv_has_the_numbers_before_rounding_and_nothing_where_there_is_none() -> None:
    assert as_csv(TABLE) == "method,accuracy_mean,accuracy_std\nFedAvg,54.2489,0.8391\nFedAvg + FedDecorr 0.1,57.95,\n"


def test_a_number_of_csv_is_the_very_number() -> None:
    value = 0.1 + 0.2
    text = as_csv(Table([ACCURACY], [[Cell("0.3", {"": value})], [Cell("0.3", {"": 1 / 3})]]))
    assert [float(line) for line in text.splitlines()[1:]] == [value, 1 / 3]


@settings(deadline=None)
@given(st.lists(st.lists(WORDS, min_size=2, max_size=2), min_size=1, max_size=4))
def test_csv_gives_every_text_back(rows: list[list[str]]) -> None:
    table = Table([METHOD, ACCURACY], [[Cell(text) for text in row] for row in rows])
    assert list(csv.reader(io.StringIO(as_csv(table))))[1:] == rows


@settings(deadline=None)
@given(st.lists(WORDS.map(lambda text: f"x{text}x"), min_size=1, max_size=4))
def test_markdown_shows_every_text_as_it_is(texts: list[str]) -> None:
    tokens = MarkdownIt("commonmark").enable("table").enable("strikethrough").parse(as_markdown(plain(*texts)))
    inline = [token for token in tokens if token.type == "inline"][1:]
    assert ["".join(child.content for child in token.children or []) for token in inline] == texts
    assert {child.type for token in inline for child in token.children or []} <= {"text", "text_special"}


@settings(deadline=None)
@given(WORDS)
def test_markdown_has_one_width(text: str) -> None:
    table, ascii_only = as_markdown(plain(text, "FedAvg")), text.isascii()
    assert not ascii_only or len({len(line) for line in table.splitlines()}) == 1


def test_wide_and_combining_letters_do_not_break_the_alignment() -> None:
    _, _, wide, accent, word = as_markdown(plain("漢字", "e\N{COMBINING ACUTE ACCENT}", "abcd")).splitlines()
    assert (wide, accent, word) == ("| 漢字   |", "| é      |".replace("é", "e\u0301"), "| abcd   |")


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("50 % & more_of #1", r"50 \% \& more\_of \#1"),
        (r"\cite{x}$y$", r"\textbackslash{}cite\{x\}\$y\$"),
        ("a~b^c <d> |e|", r"a\textasciitilde{}b\textasciicircum{}c \textless{}d\textgreater{} \textbar{}e\textbar{}"),
        ("\N{GREEK SMALL LETTER ALPHA} 0.05", r"$\alpha$ 0.05"),
        ("\N{MINUS SIGN}1.2 \N{EN DASH} Δ", r"$-$1.2 -- $\Delta$"),
        ("two\nlines", "two lines"),
        ("[0.1, 0.2]", "{}[0.1, 0.2]"),
    ],
)
def test_latex_prints_what_the_cell_says(text: str, printed: str) -> None:
    assert as_latex(plain(text)).splitlines()[4] == rf"{printed} \\"


@given(WORDS)
def test_latex_leaves_no_letter_with_a_meaning(text: str) -> None:
    row = as_latex(plain(f"x{text}")).splitlines()[4].removesuffix(r" \\")
    escaped = re.sub(r"\\(?:[{}$&#%_]|[A-Za-z]+\{\})|\$[^$]*\$", "", row)
    assert not set(escaped) & set(r"\{}$&#%_~^")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs LaTeX: apt-get install texlive-latex-recommended")
def test_latex_sets_every_letter_that_it_is_given(tmp_path: Path) -> None:
    letters = [*COMMANDS, *map(chr, range(0x21, 0x7F)), *"éüßø[]"]
    table = Table([METHOD, ACCURACY], [[Cell(f"[{each}"), Cell(each, strong=True)] for each in letters], notes=["a\n%"])
    pages = [replace(table, rows=table.rows[start : start + 40]) for start in range(0, len(letters), 40)]
    bodies = "\\newpage\n".join(map(as_latex, pages))
    head = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
    (tmp_path / "t.tex").write_text(f"{head}{bodies}\\end{{document}}\n")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert not re.search("missing character|undefined", done.stdout, re.IGNORECASE)


def test_square_brackets_are_no_markup_in_text() -> None:
    assert "[bold]x[/bold]" in as_text(plain("[bold]x[/bold]"))


def test_a_note_cannot_leave_its_comment_in_latex() -> None:
    table = Table([METHOD], [[Cell("FedAvg")]], notes=["one\n\\input{x}"])
    assert as_latex(table).splitlines()[-1] == r"% one \input{x}"


def test_columns_are_selected_in_the_tables_own_order() -> None:
    selected = TABLE.select(["accuracy", "method"])
    assert [heading.key for heading in selected.headings] == ["method", "accuracy"]
    assert TABLE.select(["accuracy"]).rows[1][0].text == "58.0"
    assert TABLE.select(["accuracy"]).notes == TABLE.notes


@pytest.mark.parametrize("write", WRITERS.values(), ids=list(WRITERS))
def test_a_table_without_rows_has_its_headings(write) -> None:
    text = write(Table([METHOD, ACCURACY], []))
    assert "method" in text
    assert "accuracy" in text
    assert text.endswith("\n")


def test_a_table_whose_rows_do_not_fit_its_headings_is_refused() -> None:
    with pytest.raises(ValueError, match="a cell for each of the 2 headings, got one of 1"):
        Table([METHOD, ACCURACY], [[Cell("FedAvg")]])
    with pytest.raises(ValueError, match="a key of its own, got method, method"):
        Table([METHOD, METHOD], [])
    with pytest.raises(ValueError, match="left or right, got 'centre'"):
        Heading("a", "a", align="centre")


@pytest.mark.parametrize(
    ("width", "titles", "said"),
    [
        (60, ["method", "accuracy (%)", "loss"], ""),
        (38, ["method", "accuracy (%)"], "A wider terminal shows loss, too."),
    ],
)
def test_a_terminal_shows_the_first_columns_whole_and_says_which_are_left_out(
    width: int, titles: list[str], said: str
) -> None:
    rows = [[Cell("FedAvg + FedDecorr 0.1"), Cell("54.2 ± 0.8"), Cell("1.234 ± 0.012")]]
    table = Table([METHOD, ACCURACY, Heading("loss", "loss")], rows)
    out = io.StringIO()
    print_table(table, Console(file=out, width=width, force_terminal=True, color_system=None))
    text = out.getvalue()
    assert [title for title in ("method", "accuracy (%)", "loss") if title in text.splitlines()[1]] == titles
    assert "54.2 ± 0.8" in text
    assert said in text
    assert max(map(len, text.splitlines())) <= width


def test_a_narrow_terminal_wraps_the_first_column_and_keeps_it() -> None:
    label = "FedAvg + FedDecorr 0.1, Dirichlet, 20 clients"
    out = io.StringIO()
    print_table(Table([METHOD, ACCURACY], [[Cell(label), Cell("54.2")]]), Console(file=out, width=42))
    assert " ".join(out.getvalue().split()[4:]).replace(" 54.2", "") == label
