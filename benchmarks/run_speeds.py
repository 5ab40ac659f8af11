"""Speed and scores of the trials of runs: `python -m benchmarks.run_speeds RUNS`.

RUNS is a folder of runs. Each variant of each run has a line: its best validation accuracy, images
per second of training, seconds of an epoch with its evaluation, and full trials an hour of all
slots together, from the first trial's start to the last one's end.
"""

from __future__ import annotations

from pathlib import Path

import click
import pandas as pd

from samtune.record import tables

HEADING = (
    f"{'run':22}{'variant':9}{'val acc %':>10}{'images/s':>12}{'epoch s':>10}{'trials/h':>10}"
)


def lines(folder: Path) -> list[str]:
    """Return a heading, and a line for each variant of each run in `folder`."""
    found = [HEADING]
    for path in sorted(folder.glob("*/trials.parquet"), key=lambda path: path.stat().st_mtime):
        trials = tables.read(path, "trials").to_pandas()
        trained = trials[trials["epochs_done"] > 0]
        for variant, own in trained.groupby("variant", sort=False, observed=True):
            found.append(f"run {path.parent.name:18}{variant:9}" + _figures(own, trials))
    return found


def _figures(own: pd.DataFrame, trials: pd.DataFrame) -> str:
    """Return a variant's figures; its trials share the slots with those of the whole run."""
    epochs = own["epochs_done"].sum()
    training = own["train_s"].sum() + own["data_s"].sum()
    images = (own["n_train"] * own["epochs_done"]).sum()
    hours = (trials["ended_at"].max() - trials["started_at"].min()).total_seconds() / 3600
    full = (trials["epochs_done"] / trials["budget_max"]).sum()
    accuracy = 100 * own["best_val_acc"].max()
    epoch_s = (training + own["eval_s"].sum()) / epochs
    return f"{accuracy:9.2f} {images / training:12.0f}{epoch_s:10.2f}{full / hours:10.1f}"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(folder: Path) -> None:
    """Print how fast the trials of the runs in FOLDER trained, and how well."""
    print("\n".join(lines(folder)))


if __name__ == "__main__":
    main()
