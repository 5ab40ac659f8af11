"""Differences averaged over the tasks of a study."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_leaderboard import NOW, task_columns
from test_searches import of, run, searched

from analysis.__main__ import main
from analysis.across_tasks import Tables
from analysis.leaderboard import leaderboard
from analysis.tasks import over_tasks, sentences
from analysis.verdicts import judged
from samtune.record import tables

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


def test_beside_the_mean_stand_shares_costs_and_transfers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    leads = {"sgd": [[0.0, 0.0], [0.0, 0.0]], "sam": [[0.02, 0.04], [0.0, 0.02]]}
    sees = {"sgd": [20, 20], "sam": [10, None]}
    rows, reports = [], []
    for space, by_task in leads.items():
        for number, own in enumerate(by_task):
            trials, repeats = searched(space, of([own]), **task_columns(label_noise=number / 10))
            for each in trials:
                each["config_sha"] = f"{space} {each['trial']}"
            # On the second task the configuration that lost on the first would be the best.
            trials[0]["val_acc"] = (0.5, 0.95)[number]
            for place, each in enumerate(repeats):
                each["trial_key"] = key = f"{space} {number} {place}"
                for epoch, see in enumerate((10, 20), 1):
                    reached = sees[space][number] is not None and see >= sees[space][number]
                    reports.append(report(key, epoch, see, 0.9 if reached else 0.8))
            rows.append((trials, repeats))
    place = run(tmp_path, *rows)
    board = judged(leaderboard([place]), [place])[0]
    (sam,) = over_tasks(board, [place]).to_dict("records")
    # The middle two of four shares, of an error of 9.5 %.
    assert sam["error_reduction_iqm"] == pytest.approx(0.02 / 0.095)
    assert (sam["transfer_regret"], sam["transfer_configs"]) == (pytest.approx(0.225), 2)
    assert pd.isna(sam["profile_area"])
    assert (
        "that is saved, as the interquartile mean over tasks and seeds: sam 21 %."
        in (sentences(over_tasks(board, [place]))[1])
    )
    tables.write(place / "curves.parquet", tables.schema("curves"), reports)
    (sam,) = over_tasks(board, [place]).to_dict("records")
    # Half the see of SGD on the first task; the target is missed on the second.
    assert sam["profile_area"] == 0.5
    assert over_tasks(board)["error_reduction_iqm"].isna().all()
    # This run reports no f1, and another one may.
    assert Tables([place]).curves("f1").empty
    monkeypatch.setattr(sys, "argv", ["analysis", str(place), "-o", str(tmp_path / "b.parquet")])
    assert main() == 0 and sentences(over_tasks(board, [place]))[0] in capsys.readouterr().out


def report(key: str, epoch: int, see: float, val_acc: float) -> dict[str, Any]:
    row = {"run": "r", "trial_key": key, "stage": "confirm", "attempt": 0, "epoch": epoch}
    row |= {"see": see, "used": see, "val_acc": val_acc, "superseded": False}
    return row | {"reported_at": NOW}
