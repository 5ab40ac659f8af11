"""The leaderboard on the terminal, and as Markdown, LaTeX, CSV or JSON."""

from __future__ import annotations

import json

import click
import pandas as pd

from analysis import board as text
from analysis.summary import summary
from samtune.commands.tables import latex_table, markdown_table, print_table
from samtune.messages import SEE


def print_board(board: pd.DataFrame, pairs: pd.DataFrame, form: str) -> None:
    """Print a judged leaderboard in one of the forms `table`, `md`, `latex`, `csv` and `json`."""
    match form:
        case "json":
            found, compared = text.records(board), text.records(pairs)
            click.echo(json.dumps({"schema": "leaderboard/1", "rows": found, "pairs": compared}))
        case "csv":
            click.echo(text.csv(board), nl=False)
        case "md":
            parts = (_markdown(*each, pairs) for each in text.questions(board))
            click.echo("\n\n".join(parts))
        case "latex":
            click.echo("\n\n".join(_latex(*each) for each in text.questions(board)))
        case _:
            click.echo(SEE)
            for question, rows in text.questions(board):
                _print_question(question, rows, pairs)


def _markdown(question: str, board: pd.DataFrame, pairs: pd.DataFrame) -> str:
    table = markdown_table([*text.headings(board), "winning knobs"], _with_winners(board))
    parts = (question, summary(board, pairs), text.efforts(board), table)
    return "\n\n".join(part for part in parts if part)


def _latex(question: str, board: pd.DataFrame) -> str:
    return latex_table([*text.headings(board), "winning knobs"], _with_winners(board), question)


def _with_winners(board: pd.DataFrame) -> list[list[str]]:
    """Return the cells of a board, the winning knobs last."""
    winners = text.winners(board)
    return [[*row, knobs] for row, knobs in zip(text.cells(board), winners, strict=True)]


def _print_question(question: str, board: pd.DataFrame, pairs: pd.DataFrame) -> None:
    """Print the verdict in words, the table and its winners."""
    click.echo(question)
    click.echo(summary(board, pairs))
    if unequal := text.efforts(board):
        click.echo(unequal)
    print_table(text.headings(board), text.cells(board))
    for name, sha, knobs in zip(
        board["space"], board["config_sha"], text.winners(board), strict=True
    ):
        won = f"{name} won with {knobs or 'its only configuration'}"
        click.echo(won if sha else f"{name}: no trial was completed")
