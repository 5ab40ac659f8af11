"""Differences averaged over the tasks of a study."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from test_leaderboard import task_columns
from test_searches import of, run, searched

from analysis.leaderboard import leaderboard
from analysis.tasks import over_tasks, sentences
from analysis.verdicts import judged

# Paired differences of three tasks, whose mean has golden numbers.
LEADS = [[0.02, 0.01, 0.03], [0.0, 0.01, -0.01, 0.02], [0.05, -0.01, 0.02, 0.03, 0.01]]


def board_of(path: Path, leads: dict[str, list[list[float]]]) -> pd.DataFrame:
    rows = []
    for space, by_task in leads.items():
        for number, own in enumerate(by_task):
            task = task_columns(label_noise=number / 10)
            rows += [searched("sgd", of([[0.0] * len(own)]), **task)] if space == "sam" else []
            rows += [searched(space, of([own]), **task)]
    place = run(path, *rows)
    return judged(leaderboard([place]), [place])[0]


def test_tasks_have_equal_weight(tmp_path: Path) -> None:
    tasks = over_tasks(board_of(tmp_path, {"sam": LEADS}))
    (row,) = tasks.to_dict("records")
    assert (row["space"], row["baseline"], row["tasks"]) == ("sam", "sgd", 3)
    assert row["diff_mean"] == pytest.approx(0.015)
    assert row["diff_lo"] == pytest.approx(0.004920419634)
    assert row["diff_hi"] == pytest.approx(0.02507958037)
    assert row["friedman_p"] is None
    assert sentences(tasks) == [
        "Mean difference to sgd over 3 tasks, in points, with its 95 % interval: "
        "sam +1.50 (+0.49 to +2.51). It speaks of these tasks alone."
    ]


def test_one_task_has_no_mean_over_tasks(tmp_path: Path) -> None:
    tasks = over_tasks(board_of(tmp_path, {"sam": LEADS[:1]}))
    assert tasks.empty and sentences(tasks) == []


def test_ranks_are_tested_from_five_tasks_on(tmp_path: Path) -> None:
    leads = {"sam": [[0.01, 0.012]] * 5, "asam": [[0.03, 0.032]] * 5}
    tasks = over_tasks(board_of(tmp_path, leads))
    # Three rows in one order on five tasks: chi-square 10 with 2 degrees of freedom.
    assert tasks["friedman_p"].tolist() == [pytest.approx(0.006737947)] * 2
    assert sentences(tasks)[0].count("asam +3.10") == 1
