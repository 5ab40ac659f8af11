"""Runs from Python: start one, open one, and compare several."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from samtune.api.launch import Launch, LaunchOptions
from samtune.api.run import Run, concluded
from samtune.api.spaces import Reference, each_of, resolved
from samtune.record.folder import check_name, refuse_taken
from samtune.record.record import Record

if TYPE_CHECKING:
    import pandas as pd


def run(
    *spaces: Reference | Sequence[Reference],
    name: str | None = None,
    set: Mapping[str, Any] | Sequence[str] = (),
    on: str | Path | None = None,
    runs: str | Path | None = None,
    confirm: bool = True,
    top: int | None = None,
    seeds: int | None = None,
    until_decided: bool | None = None,
    max_seeds: int | None = None,
    **options: Unpack[LaunchOptions],
) -> Run:
    """Search one or several spaces, confirm their winners, and return the run.

    With the name and the spaces of a run that was stopped, this continues that run.

    Args:
        spaces: Names of shipped spaces, space files, maps with the words of a space file, or
            `samtune.Space`; a list of them as well.
        name: Name of the run; without it, the spaces' names and a count.
        set: Values on top of each space: `{"budget.trials": 8, "lr.max": 0.3}`.
        on: The space that the task, budget, search, rungs and resources are taken from.
        runs: The folder that holds the runs; without it, SAMTUNE_RUNS, or `runs`.
        confirm: Whether to repeat the winners on fresh seeds, which opens the test split.
        top: How many configurations to confirm per space; without it, as the space says.
        seeds: How many fresh seeds each, a fixed plan; without it, as the space says.
        until_decided: Whether to compare the rows after 5, 10, 15 and 20 seeds, and to give no
            more seeds to a row that is better, worse or tied by then; without it, only for more
            than three spaces.
        max_seeds: The most seeds until decided: 10, 15 or 20.
        options: `address` of a running Ray cluster, `storage` URL for a copy of the run,
            `ship_code` to send code to a cluster's nodes, `log` (any of tensorboard, wandb,
            mlflow), `hook` (`module:function`), and `progress=False` to show none.

    Returns:
        The run; its `exit_code` says how it ended.

    Raises:
        SamtuneError: A space is wrong, the name is taken, or the environment fails.
        Interrupted: A signal such as Ctrl-C has stopped the run, which can be resumed.
    """
    folder = _runs_folder(runs)
    launch = Launch.of(options)
    if name is not None and not (folder / check_name(name) / "sweep.db").is_file():
        refuse_taken(folder, name)
    loaded = resolved([*each_of(spaces)], set, on, launch.tell)

    from samtune.api import training
    from samtune.api.seed_plan import Asked

    asked = Asked(confirm, top, seeds, until_decided, max_seeds)
    return concluded(*training.start(folder, name, loaded, asked, launch))


def load(run: str | Path, runs: str | Path | None = None) -> Run:
    """Return a run, also one that another process is running.

    Args:
        run: Its folder, such as `runs/first`, or its name.
        runs: The folder that holds the runs, for a name; without it, SAMTUNE_RUNS, or `runs`.

    Raises:
        RunError: There is no such run (exit code 2).
    """
    path = Path(run)
    folder = path.absolute() if path.name != str(run) else _runs_folder(runs).absolute() / path
    with Record.open(folder.parent, folder.name, read_only=True) as record:
        return Run(record.folder)


def leaderboard(*runs: Run | str | Path, baseline: str | None = None) -> pd.DataFrame:
    """Compare the confirmed winners of one or several runs, the best first.

    Args:
        runs: Runs, their folders or their names.
        baseline: Variant or space that the verdicts compare each row with; None for that of the
            study, or tuned SGD.

    Returns:
        One row per run and space.
    """
    from analysis.verdicts import compare

    with tempfile.TemporaryDirectory() as scratch:
        folders = []
        for number, each in enumerate(runs):
            found = each if isinstance(each, Run) else load(each)
            folders.append(Path(scratch, str(number)))
            found.export(folders[-1])
        return compare(folders, baseline)[0]


def _runs_folder(runs: str | Path | None) -> Path:
    return Path(runs or os.environ.get("SAMTUNE_RUNS") or "runs")
