"""Tables for the terminal, and as Markdown, CSV or LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import click
from rich.table import Table
from rich.text import Text

from samtune.terminal import console_for

# What LaTeX reads as a command, and how it is written as text.
_LATEX = {
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"↑": r"$\uparrow$", "↓": r"$\downarrow$", "≈": r"$\approx$", "○": r"$\circ$"},
    **{"\N{MINUS SIGN}": "$-$", "<": "$<$"},
}


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], least: int = 4) -> None:
    """Print a table; a narrow terminal loses columns from the end, down to `least`."""
    console = console_for()
    lines = [headings, *rows]
    fitting = (k for k in range(len(headings), least, -1) if fits([line[:k] for line in lines]))
    shown = next(fitting, least)
    table = Table(box=None, pad_edge=False)
    for heading in headings[:shown]:
        table.add_column(heading, overflow="fold")
    for row in rows:
        # Text, because a reason may hold what rich would read as markup.
        table.add_row(*map(Text, row[:shown]))
    console.print(table)


def fits(lines: Sequence[Sequence[str]]) -> bool:
    """Return whether a table of these lines fits into the width of the terminal."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return sum(widths) + 2 * (len(widths) - 1) <= console_for().width


def print_words(text: str) -> None:
    """Print a paragraph; on a terminal its lines end between words."""
    console = console_for()
    if console.is_terminal:
        console.print(Text(text))
    else:
        click.echo(text)


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def latex_table(headings: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """Return a table in LaTeX, for the package booktabs."""
    head, *body = (" & ".join(map(_latex, line)) + r" \\" for line in [headings, *rows])
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_latex(caption)}}}",
            rf"\begin{{tabular}}{{{'l' * len(headings)}}}",
            *(r"\toprule", head, r"\midrule", *body, r"\bottomrule"),
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _latex(text: str) -> str:
    return "".join(_LATEX.get(mark, mark) for mark in text)


def csv_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table as CSV; None is an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(headings)
    writer.writerows(rows)
    return text.getvalue()
