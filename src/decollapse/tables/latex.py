"""Tables in LaTeX, for the package booktabs."""

from __future__ import annotations

from decollapse.tables.table import Cell, Table

GREEK = dict(zip("αβγδεηθκλμνπρστφχωΓΔΘΛΠΣΦΩ", (
    "alpha", "beta", "gamma", "delta", "epsilon", "eta", "theta", "kappa", "lambda", "mu", "nu", "pi", "rho", "sigma",
    "tau", "varphi", "chi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Pi", "Sigma", "Phi", "Omega",
), strict=True))  # fmt: skip

COMMANDS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''",
    "±": r"$\pm$", "\N{MULTIPLICATION SIGN}": r"$\times$", "\N{MINUS SIGN}": "$-$",
    "\N{EN DASH}": "--", "\N{EM DASH}": "---", "…": r"\dots{}",
    "≤": r"$\leq$", "≥": r"$\geq$", "→": r"$\to$", "√": r"$\surd$", "∞": r"$\infty$",
    "₁": "$_1$", "₂": "$_2$", "²": "$^2$", "\N{NO-BREAK SPACE}": "~", "\N{THIN SPACE}": r"\,",
    **{letter: rf"$\{name}$" for letter, name in GREEK.items()},
}  # fmt: skip
"""What LaTeX reads as something else, or does not know without further packages."""


def as_latex(table: Table) -> str:
    r"""A `tabular` with the rules of booktabs; a document needs `\usepackage{booktabs}` and UTF-8. Notes are comments.

    >>> from decollapse.tables import Heading
    >>> headings = Heading("method", "method", align="left"), Heading("accuracy", "accuracy (%)")
    >>> print(as_latex(Table(headings, [[Cell("FedAvg"), Cell("54.2 ± 0.8")]])), end="")
    \begin{tabular}{lr}
    \toprule
    method & accuracy (\%) \\
    \midrule
    FedAvg & 54.2 $\pm$ 0.8 \\
    \bottomrule
    \end{tabular}
    """
    columns = "".join("r" if heading.align == "right" else "l" for heading in table.headings)
    lines = [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _row([_escaped(heading.title) for heading in table.headings]),
        r"\midrule",
        *(_row([_marked(cell) for cell in row]) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        *(f"% {' '.join(note.splitlines())}" for note in table.notes),
    ]
    return "".join(f"{line}\n" for line in lines)


def _row(cells: list[str]) -> str:
    # After \\ and booktabs' rules a bracket would be read as an option.
    first, *rest = cells
    return " & ".join([f"{{}}{first}" if first.startswith("[") else first, *rest]) + r" \\"


def _marked(cell: Cell) -> str:
    text = _escaped(cell.text)
    return rf"\textbf{{{text}}}" if cell.strong and text else text


def _escaped(text: str) -> str:
    r"""Text as LaTeX that prints that text.

    >>> print(_escaped("α 0.05 & 50 %"))
    $\alpha$ 0.05 \& 50 \%
    """
    return "".join(COMMANDS.get(letter, letter) for letter in " ".join(text.splitlines()))
