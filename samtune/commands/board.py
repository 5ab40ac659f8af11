"""A leaderboard on the terminal, or as Markdown, CSV or JSON."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console


def print_board(board: pd.DataFrame, form: str) -> None:
    from analysis import leaderboard as lb

    match form:
        case "json":
            click.echo(json.dumps({"schema": "leaderboard/1", "rows": lb.records(board)}))
        case "csv":
            click.echo(lb.csv(board), nl=False)
        case "md":
            click.echo(lb.markdown(board))
        case _:
            for question, rows in lb.questions(board):
                _print_question(question, rows)


def _print_question(question: str, board: pd.DataFrame) -> None:
    """One table, without the last columns where the terminal is narrow, and its winners."""
    from rich.table import Table

    from analysis import leaderboard as lb

    console, rows = console_for(), lb.cells(board)
    widths = [max(map(len, column)) for column in zip(lb.HEADINGS, *rows, strict=True)]
    fitting = [k for k in range(4, len(widths) + 1) if sum(widths[:k]) + 2 * k <= console.width]
    shown = max(fitting, default=4)
    table = Table(box=None, pad_edge=False)
    for heading in lb.HEADINGS[:shown]:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row[:shown])
    click.echo(question)
    console.print(table)
    for name, sha, knobs in zip(
        board["space"], board["config_sha"], lb.winners(board), strict=True
    ):
        won = f"{name} won with {knobs or 'its only configuration'}"
        click.echo(won if sha else f"{name}: no trial was completed")


def console_for(*, stderr: bool = False) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        # A log or a pipe has no width to fit into.
        console = Console(stderr=stderr, highlight=False, width=240)
    return console
