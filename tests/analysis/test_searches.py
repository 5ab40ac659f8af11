"""Rows that stand for several searches, and verdicts about their variants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_leaderboard import folder, repeat, task_columns, trial
from test_verdicts import by_space

from analysis.leaderboard import leaderboard
from analysis.summary import summary
from analysis.verdicts import judged
from samtune.record import tables

# The differences of three searches whose test has golden numbers.
LEADS = [[0.02, 0.01, 0.03], [0.0, 0.01, -0.01], [0.05, 0.04, 0.03]]
BASE = 0.9


def searched(
    space: str, scores: list[list[float]], **changes: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the trials and the repeats of searches, the winner of each having its scores."""
    trials, repeats = [], []
    for search, own in enumerate(scores):
        who = {"space": space, "variant": space, "search": search, **changes}
        name = "-".join([space, str(search), *map(str, changes.values())])
        # A trial that the winner of each search beats, and one that was not completed.
        for number, (state, value) in enumerate([("completed", 0.5), ("pruned", 0.99)]):
            key = f"{name}-{number}"
            trials.append(trial(number, state, value, trial_key=key, config_sha=key, **who))
        won = {"trial_key": f"{name}-won", "config_sha": f"{name}-won"}
        trials.append(trial(2, "completed", 0.92 + search / 100, **won, **who))
        repeats += [
            repeat(
                100 * search + place,
                score,
                source_trial_key=won["trial_key"],
                config_sha=won["config_sha"],
                **who,
            )
            for place, score in enumerate(own)
        ]
    return trials, repeats


def of(leads: list[list[float]]) -> list[list[float]]:
    """Return scores with these leads over a baseline that differs by bundle."""
    return [
        [BASE + search / 50 + place / 100 + lead for place, lead in enumerate(own)]
        for search, own in enumerate(leads)
    ]


def run(path: Path, *rows: tuple[list[Any], list[Any]]) -> Path:
    trials, repeats = ([each for row in rows for each in row[k]] for k in (0, 1))
    return folder(path / "r", trials, repeats)


def board_of(path: Path, **rows: list[list[float]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    place = run(path, *(searched(space, scores) for space, scores in rows.items()))
    return judged(leaderboard([place]), [place])


def test_a_row_stands_for_all_searches_of_its_space(tmp_path: Path) -> None:
    scores = [[0.91, 0.93], [0.90, 0.90], [0.94, 0.98]]
    board, _ = board_of(tmp_path, sam=scores)
    (row,) = board.to_dict("records")
    assert (row["searches"], row["trials"], row["repeats"]) == (3, 9, 6)
    assert row["trials_completed"] == 6 and row["search_see"] == 90
    means = np.array([0.92, 0.90, 0.96])
    assert row["test_acc_mean"] == pytest.approx(means.mean())
    # t(0.975, 2) = 4.302653: the interval is about searches, of which there are three.
    half = 4.302652729911275 * means.std(ddof=1) / np.sqrt(3)
    assert row["test_acc_lo"] == pytest.approx(means.mean() - half)
    within = np.array([0.0002, 0.0, 0.0008])
    assert row["test_acc_sd"] == pytest.approx(np.sqrt(within.mean()))
    between = np.sqrt(means.var(ddof=1) - (within / 2).mean())
    assert row["between_search_sd"] == pytest.approx(between)
    # Each search has its own winner; the one of the third has the best validation score.
    assert row["best_val_acc"] == pytest.approx(0.93)
    assert row["config_sha"] == "sam-2-won"
    assert row["optimism"] == pytest.approx(0.93 - 0.9)
    assert row["search_wall_s"] == 40


def test_the_promise_of_a_winner_is_its_mean_in_the_select_stage(tmp_path: Path) -> None:
    trials, repeats = searched("sam", [[0.91, 0.93]] * 2)
    place = folder(tmp_path / "r", trials, repeats)
    selects = [
        {**repeats[0], "source_trial_key": key, "search": search, "val_acc": value, **state}
        for key, search, value, state in [
            ("sam-0-won", 0, 0.88, {}),
            ("sam-0-won", 0, 0.90, {}),
            ("sam-0-0", 0, 0.70, {}),
            ("sam-1-won", 1, 0.87, {}),
            ("sam-1-won", 1, 0.10, {"state": "cancelled"}),
        ]
    ]
    tables.write(place / "selects.parquet", tables.schema("selects"), selects)
    row = leaderboard([place]).iloc[0]
    assert row["select_mean"] == pytest.approx((0.89 + 0.87) / 2)
    assert row["optimism"] == pytest.approx((0.89 + 0.87) / 2 - 0.9)
    assert row["config_sha"] == "sam-0-won"
    # Nothing is confirmed: the select stage has chosen, and a run that failed loses.
    tables.write(place / "repeats.parquet", tables.schema("repeats"), [])
    selects += [{**selects[0], "source_trial_key": "sam-1-0", "search": 1, "val_acc": 0.6}]
    tables.write(place / "selects.parquet", tables.schema("selects"), selects)
    row = leaderboard([place]).iloc[0]
    assert row["best_val_acc"] == pytest.approx((0.92 + 0.5) / 2)


def test_from_three_searches_a_verdict_is_about_the_variant(tmp_path: Path) -> None:
    board, pairs = board_of(tmp_path, sgd=of([[0.0] * 3] * 3), sam=of(LEADS))
    row = by_space(board)["sam"]
    assert (row["verdict_about"], row["n"], row["plan"]) == ("variant", 3, "fixed 3")
    assert row["diff_mean"] == pytest.approx(0.02)
    assert row["diff_lo"] == pytest.approx(-0.02968275424)
    assert row["p"] == pytest.approx(0.2254033308)
    assert row["verdict"] == "underpowered" and pd.isna(row["seeds_needed"])
    # The lead is one sd of the search means: ten searches by the table of power.
    assert row["searches_needed"] == 10
    text = summary(board, pairs)
    assert "distinguished from sgd; about 7 more searches each would distinguish them." in text
    assert text.endswith("The verdicts are about the variants, over 3 searches each.")


def test_with_two_searches_a_verdict_is_about_the_configurations(tmp_path: Path) -> None:
    board, pairs = board_of(tmp_path, sgd=of([[0.0] * 3] * 3), sam=of(LEADS[:2]))
    row = by_space(board)["sam"]
    assert (row["verdict_about"], row["n"], row["searches"]) == ("configuration", 6, 2)
    assert row["diff_mean"] == pytest.approx(0.01)
    assert not pd.isna(row["seeds_needed"]) and pd.isna(row["searches_needed"])
    assert pd.isna(row["between_search_sd"])
    assert "search variance not measured" in summary(board, pairs)


def test_equal_leads_of_searches_are_tied_or_better(tmp_path: Path) -> None:
    same = [[0.001] * 3] * 3
    board, _ = board_of(tmp_path, sgd=of([[0.0] * 3] * 3), sam=of(same), asam=of([[0.05] * 3] * 3))
    rows = by_space(board)
    assert (rows["sam"]["verdict"], rows["asam"]["verdict"]) == ("tied", "better")
    assert (rows["asam"]["rank_lo"], rows["asam"]["rank_hi"]) == (1, 1)


def test_tasks_of_one_run_are_apart(tmp_path: Path) -> None:
    noisy, clean = task_columns(label_noise=0.4), task_columns(label_noise=0.0)
    place = run(
        tmp_path,
        searched("sgd", of([[0.0] * 3]), **noisy),
        searched("sam", of([[0.02, 0.03, 0.01]]), **noisy),
        searched("sgd", of([[0.05, 0.06, 0.07]]), **clean),
        searched("sam", of([[0.0] * 3]), **clean),
    )
    board, pairs = judged(leaderboard([place]), [place])
    assert len(board) == 4 and len(pairs) == 2
    found = board.set_index(["label_noise", "space"])
    assert found["repeats"].tolist() == [3] * 4 and found["trials"].tolist() == [3] * 4
    assert found.loc[(0.4, "sam"), "diff_mean"] == pytest.approx(0.02)
    assert found.loc[(0.0, "sam"), "diff_mean"] == pytest.approx(-0.06)
    assert found.loc[(0.4, "sam"), "rank"] == found.loc[(0.0, "sgd"), "rank"] == 1


def test_two_copies_of_a_run_are_read(tmp_path: Path) -> None:
    rows = [searched("sgd", of([[0.0] * 3])), searched("sam", of(LEADS[:1]))]
    (tmp_path / "copy").mkdir()
    places = [run(tmp_path, *rows), run(tmp_path / "copy", *rows)]
    board, _ = judged(leaderboard(places), places)
    assert set(board.loc[board["space"] == "sam", "n"]) == {3}


def test_tables_without_searches_have_one(tmp_path: Path) -> None:
    place = run(tmp_path, searched("sgd", of([[0.0] * 3])), searched("sam", of(LEADS[:1])))
    expected = judged(leaderboard([place]), [place])[0]
    for table in ("trials", "repeats"):
        path = place / f"{table}.parquet"
        rows = tables.read(path, table).drop_columns("search")
        tables.write(path, rows.schema, rows.to_batches())
    found = judged(leaderboard([place]), [place])[0]
    pd.testing.assert_frame_equal(found, expected)
