"""The command that measures the sharpness of confirmed models: `samtune sharpness`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pandas as pd

from analysis.board import questions, records
from analysis.sharpness import MEASURES, SETTINGS, taus
from analysis.tables import QUESTION
from samtune.api import sharpness as api
from samtune.commands.options import json_option, runs_option
from samtune.commands.tables import print_table
from samtune.record import tables
from samtune.record.record import Record


@click.command()
@click.argument("name")
@click.option("--rows", metavar="ROW,...", help="Only these rows of the leaderboard.")
@click.option(
    "--samples",
    type=click.IntRange(2),
    default=api.SETTINGS["samples"],
    show_default=True,
    help="Training images, chosen by hash; all of a smaller training split.",
)
@click.option(
    "--m",
    type=click.IntRange(2),
    default=api.SETTINGS["m"],
    show_default=True,
    help="Images that share a perturbation.",
)
@click.option(
    "--rho",
    type=click.FloatRange(0, min_open=True),
    default=api.SETTINGS["rho"],
    show_default=True,
    help="Radius of the perturbations: L2 norm of d, and of d / |w| for the adaptive measure.",
)
@click.option(
    "--batch-norm",
    type=click.Choice(["eval", "train"]),
    default=api.SETTINGS["batch_norm"],
    show_default=True,
    help="BatchNorm's statistics: the running ones, or those of each batch.",
)
@runs_option
@json_option
def sharpness(name: str, rows: str | None, runs: Path, as_json: bool, **settings: Any) -> int:
    """Measure the sharpness of a run's confirmed models.

    Sharpness describes a model; no row is ranked by it. What has been measured with equal settings
    is not measured again.
    """
    wanted = [row.strip() for row in (rows or "").split(",") if row.strip()]
    with Record.open(runs, name) as record:
        failed = api.measure(record, wanted, settings, lambda line: click.echo(line, err=True))
        folder = record.folder
    board = tables.read(folder / "leaderboard.parquet", "leaderboard").to_pandas()
    board = board.dropna(subset=["sharp_m"])
    if wanted:
        board = board[board["space"].isin(wanted)]
    found = taus([folder])
    for sentence in failed:
        click.echo(f"samtune: not measured: {sentence}", err=True)
    if as_json:
        columns = ["space", "task", "repeats", *(f"{m}_mean" for m in MEASURES), *SETTINGS]
        document = {"rows": records(board[columns]), "tau": records(found), "failed": failed}
        click.echo(json.dumps({"schema": "sharpness/1", "run": name, **document}))
    else:
        _print(board, found)
    return 0 if not failed else 3 if len(board) else 1


def _print(board: pd.DataFrame, found: pd.DataFrame) -> None:
    """Print the rows by their settings, and tau where there is any."""
    for (samples, m, rho, mode), rows in board.groupby([*SETTINGS], sort=False):
        click.echo(
            f"Of {samples:g} training images, m {m:g}, rho {rho:g}, BatchNorm in {mode} mode:"
        )
        print_table(
            ["space", "repeats", *(measure.removeprefix("sharp_") for measure in MEASURES)],
            [
                [row["space"], str(row["repeats"]), *(_number(row, name) for name in MEASURES)]
                for _, row in rows.iterrows()
            ],
        )
    if found.empty:
        click.echo(
            "No correlation with the test score: that takes four confirmed configurations at least"
        )
        return
    headings = {tuple(rows.iloc[0][QUESTION]): name for name, rows in questions(board)}
    for question, own in found.groupby(QUESTION, sort=False):
        click.echo(f"Kendall's tau with the test score: {headings.get(question, question[2])}")
        by_bin = own.groupby(["lr_lo", "lr_hi", "n"], sort=False)
        print_table(
            ["lr", "configurations", *(measure.removeprefix("sharp_") for measure in MEASURES)],
            [
                [f"{lo:.3g} to {hi:.3g}", str(n), *(_tau(tau) for tau in each["tau"])]
                for (lo, hi, n), each in by_bin
            ],
        )


def _number(row: pd.Series[Any], measure: str) -> str:
    value = row[f"{measure}_mean"]
    return "-" if pd.isna(value) else f"{value:.4g}"


def _tau(tau: float | None) -> str:
    return "-" if tau is None or pd.isna(tau) else f"{tau:+.2f}"
