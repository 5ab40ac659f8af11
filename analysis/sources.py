"""Several runs on one board: which folders count, and what a reader has to know about them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.tables import QUESTION
from samtune.record import tables

# The bound that `python -m benchmarks.race` holds the race to.
RISK = 0.05


def merged(folders: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Return the folders that count, and sentences about them.

    Of copies of one run only the copy with the most trials and repeats counts.

    Args:
        folders: Folders that hold the tables of a run each.

    Raises:
        TableError: A table cannot be read, or two different runs have one name.

    """
    kept: dict[str, tuple[Path, object, int]] = {}
    notes = []
    for folder in dict.fromkeys(folders):
        name, identity, size = _run(folder)
        if name not in kept:
            kept[name] = folder, identity, size
            continue
        other, known, largest = kept[name]
        if identity != known:
            raise tables.TableError(
                f"two different runs are called {name}: {other} and {folder}; "
                f"rename one, by `samtune mv {name} NEW` where it was made",
                exit_code=2,
            )
        if size > largest:
            kept[name] = folder, identity, size
        notes.append(f"{other} and {folder} are the same run; {kept[name][0]} counts.")
    found = [folder for folder, _, _ in kept.values()]
    return found, notes + _versions({name: kept[name][0] for name in kept})


def rules(board: pd.DataFrame) -> list[str]:
    """Return a sentence for each question whose winners were not chosen by one rule."""
    found = []
    # The defaults of a study are one trial per search, so nothing is chosen among them.
    searched = board[(board["n_knobs"] > 0) & (board["trials"] > board["searches"])]
    for _, rows in searched.groupby(QUESTION, sort=False):
        several = rows["run"].nunique() > 1
        by: dict[str, list[str]] = {}
        for row in rows.to_dict("records"):
            selected = "" if pd.isna(row["select_mean"]) else ", select runs"
            rule = f"{row['search_alg']}, {row['scheduler']}{selected}"
            by.setdefault(rule, []).append(
                f"{row['run']}/{row['space']}" if several else row["space"]
            )
        if len(by) > 1:
            each = "; ".join(f"{', '.join(names)} by {rule}" for rule, names in by.items())
            found.append(f"The winners were chosen by different rules: {each}.")
    return found


def ends(folders: Sequence[Path]) -> list[str]:
    """Return a sentence per run with searches that ended early, or were left out by a race."""
    found = []
    for folder in folders:
        about = tables.metadata(folder / "trials.parquet")
        by: dict[str, list[str]] = {}
        for name, why in json.loads(about.get("samtune.ended_early", "{}")).items():
            by.setdefault(why, []).append(name)
        if by:
            each = "; ".join(f"{', '.join(names)} ({why})" for why, names in by.items())
            found.append(f"Searches of {folder.name} that ended early: {each}.")
        if raced := json.loads(about.get("samtune.raced", "{}")):
            rows = ", ".join(dict.fromkeys(raced.values()))
            searches = "1 search" if len(raced) == 1 else f"{len(raced)} searches"
            found.append(
                f"The race of {folder.name} saved {searches} of {rows}. It loses the best row in "
                f"at most {RISK:.0%} of simulated studies."
            )
    return found


def _run(folder: Path) -> tuple[str, object, int]:
    """Return the name of a run, what tells it from other runs of that name, and its size."""
    import pyarrow.compute as pc

    path = folder / "trials.parquet"
    trials = tables.read(path, "trials", ["started_at"])
    repeats = tables.read(folder / "repeats.parquet", "repeats", ["run"])
    first = pc.min(trials["started_at"]).as_py()
    about = tables.metadata(path)
    name = about.get("samtune.run", folder.name)
    return name, first, trials.num_rows + repeats.num_rows


def _versions(folders: dict[str, Path]) -> list[str]:
    by: dict[str, list[str]] = {}
    for name, folder in folders.items():
        version = tables.metadata(folder / "trials.parquet").get("samtune.version", "unknown")
        by.setdefault(version, []).append(name)
    if len(by) < 2:
        return []
    each = "; ".join(f"{version} ({', '.join(names)})" for version, names in by.items())
    return [f"The runs are of different versions of samtune: {each}."]
