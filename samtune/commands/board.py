"""The leaderboard on the terminal, and as Markdown, LaTeX, CSV or JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click
import pandas as pd

from analysis import board as text
from analysis import paper, pareto
from analysis.sharpness import sentence, taus
from analysis.summary import summary
from analysis.tables import QUESTION
from analysis.tasks import over_tasks, sentences
from samtune.commands.tables import (
    fits,
    latex_table,
    markdown_table,
    print_table,
    print_words,
)
from samtune.messages import SEE


def print_board(
    board: pd.DataFrame,
    pairs: pd.DataFrame | None,
    form: str,
    folders: Sequence[Path] = (),
) -> None:
    """Print a leaderboard in one of the forms `table`, `md`, `latex`, `csv` and `json`.

    Args:
        board: the rows.
        pairs: the pairs of the judged board; None where the rows are not judged.
        form: the form.
        folders: the folders with the tables of the runs, for what the board does not hold.
    """
    sharp = taus(folders)
    # Rows that are not judged have no differences to average.
    tasks = over_tasks(board.iloc[:0] if pairs is None else board, folders)
    match form:
        case "json":
            compared = [] if pairs is None else text.records(pairs)
            found = {"schema": "leaderboard/1", "rows": text.records(board), "pairs": compared}
            more = {"tasks": text.records(tasks), "sharpness": text.records(sharp)}
            more["fronts"] = pareto.records(folders)
            click.echo(json.dumps(found | more))
        case "csv":
            click.echo(text.csv(board), nl=False)
        case "md":
            parts = (_markdown(*each, pairs, sharp) for each in text.questions(board))
            click.echo("\n\n".join([*parts, *sentences(tasks)]))
        case "latex":
            click.echo("\n\n".join(_latex(*each) for each in text.questions(board)))
        case _:
            click.echo(SEE)
            for question, rows in text.questions(board):
                _print_question(question, rows, pairs, sharp)
            for sentence in sentences(tasks):
                click.echo(sentence)


def print_budgets(board: pd.DataFrame, form: str) -> None:
    """Print a table for each task, its budgets side by side, as `table`, `md` or `latex`."""
    for title, headings, cells in text.by_budget(board):
        if form == "latex":
            click.echo(latex_table(headings, cells, title))
            continue
        if title:
            click.echo(f"{title}\n")
        if form == "md":
            click.echo(markdown_table(headings, cells))
        else:
            print_table(headings, cells, least=2)


def print_fronts(folders: Sequence[Path], form: str) -> None:
    """Print the Pareto fronts of the runs that have several aims, as `table`, `md` or `latex`."""
    for name, headings, cells in pareto.read_fronts(folders):
        of = f" of {name}" if name else ""
        title = f"Pareto front{of}: the full trials that no other beats in all aims"
        if form == "latex":
            click.echo(f"\n{latex_table(headings, cells, title)}")
            continue
        click.echo(f"\n{title}\n")
        if form == "md":
            click.echo(markdown_table(headings, cells))
        else:
            print_table(headings, cells)


def _markdown(
    question: str, board: pd.DataFrame, pairs: pd.DataFrame | None, sharp: pd.DataFrame
) -> str:
    table = markdown_table([*text.headings(board), "winning knobs"], _with_winners(board))
    words = "" if pairs is None else summary(board, pairs)
    parts = (question, words, text.efforts(board), table, _of_sharpness(board, sharp))
    return "\n\n".join(part for part in parts if part)


def _of_sharpness(board: pd.DataFrame, sharp: pd.DataFrame) -> str:
    """Return the sentence about the sharpness of the rows of one question."""
    asked = board.iloc[0][QUESTION]
    return sentence(sharp[(sharp[QUESTION] == asked).all(axis=1)])


def _latex(question: str, board: pd.DataFrame) -> str:
    headings, cells, note = paper.table(board)
    return latex_table(headings, cells, f"{question}. {note}")


def _with_winners(board: pd.DataFrame) -> list[list[str]]:
    """Return the cells of a board, the winning knobs last."""
    winners = text.winners(board)
    return [[*row, knobs] for row, knobs in zip(text.cells(board), winners, strict=True)]


def _print_question(
    question: str, board: pd.DataFrame, pairs: pd.DataFrame | None, sharp: pd.DataFrame
) -> None:
    """Print the verdict in words, the table and its winners."""
    click.echo(question)
    if pairs is not None:
        print_words(summary(board, pairs))
    if unequal := text.efforts(board):
        click.echo(unequal)
    headings, cells = text.headings(board), text.cells(board)
    # The columns up to the verdict and the ranks are always shown.
    least = headings.index("ranks") + 1 if "ranks" in headings else 4
    if not fits([headings[:least], *(row[:least] for row in cells)]):
        cells = text.cells(board, short=True)
    print_table(headings, cells, least=least)
    shown = board[["space", "config_sha", "trials_completed"]].itertuples(index=False)
    for (name, sha, completed), knobs in zip(shown, text.winners(board), strict=True):
        none = "no trial that was completed keeps the constraints"
        lost = none if completed else "no trial was completed"
        won = f"{name} won with {knobs or 'its only configuration'}"
        click.echo(won if sha else f"{name}: {lost}")
    if said := _of_sharpness(board, sharp):
        print_words(said)
