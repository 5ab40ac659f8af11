"""Tables on the terminal, or as Markdown, CSV or JSON: the leaderboard, and others."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from samtune.terminal import console_for

if TYPE_CHECKING:
    import pandas as pd


def print_board(board: pd.DataFrame, pairs: pd.DataFrame, form: str) -> None:
    """Print a judged leaderboard as a table, as Markdown (`md`), CSV or JSON."""
    from analysis import board as text

    match form:
        case "json":
            found, compared = text.records(board), text.records(pairs)
            click.echo(json.dumps({"schema": "leaderboard/1", "rows": found, "pairs": compared}))
        case "csv":
            click.echo(text.csv(board), nl=False)
        case "md":
            parts = (_markdown(*each, pairs) for each in text.questions(board))
            click.echo("\n\n".join(parts))
        case _:
            for question, rows in text.questions(board):
                _print_question(question, rows, pairs)


def _markdown(question: str, board: pd.DataFrame, pairs: pd.DataFrame) -> str:
    from analysis import board as text
    from analysis.verdicts import summary

    winners = text.winners(board)
    rows = [[*row, knobs] for row, knobs in zip(text.cells(board), winners, strict=True)]
    table = markdown_table([*text.headings(board), "winning knobs"], rows)
    return f"{question}\n\n{summary(board, pairs)}\n\n{table}"


def _print_question(question: str, board: pd.DataFrame, pairs: pd.DataFrame) -> None:
    """Print the verdict in words, the table and its winners."""
    from analysis import board as text
    from analysis.verdicts import summary

    click.echo(question)
    click.echo(summary(board, pairs))
    print_table(text.headings(board), text.cells(board))
    for name, sha, knobs in zip(
        board["space"], board["config_sha"], text.winners(board), strict=True
    ):
        won = f"{name} won with {knobs or 'its only configuration'}"
        click.echo(won if sha else f"{name}: no trial was completed")


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], least: int = 4) -> None:
    """A table without the last columns, down to `least`, where the terminal is narrow."""
    from rich.table import Table
    from rich.text import Text

    console = console_for()
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    fitting = [
        k for k in range(least, len(widths) + 1) if sum(widths[:k]) + 2 * k <= console.width
    ]
    shown = max(fitting, default=least)
    table = Table(box=None, pad_edge=False)
    for heading in headings[:shown]:
        table.add_column(heading, overflow="fold")
    for row in rows:
        # Text, because a reason may hold what rich would read as markup.
        table.add_row(*map(Text, row[:shown]))
    console.print(table)


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def csv_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """The same as CSV; None is an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(headings)
    writer.writerows(rows)
    return text.getvalue()
