"""The committed results of studies: their text says what their tables hold."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from samtune.commands.board import print_board

RESULTS = Path(__file__).parents[2] / "analysis" / "results"
TEXT = " ".join((RESULTS / "README.md").read_text().split())


@pytest.fixture(scope="module")
def board() -> pd.DataFrame:
    return pd.read_parquet(RESULTS / "digits" / "leaderboard.parquet")


@pytest.fixture(scope="module")
def pairs() -> pd.DataFrame:
    return pd.read_parquet(RESULTS / "digits" / "pairs.parquet")


@pytest.mark.parametrize("study", ["digits", "aa"])
def test_the_board_is_that_of_the_tables(study: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = [pd.read_parquet(RESULTS / study / f"{t}.parquet") for t in ("leaderboard", "pairs")]
    print_board(found[0], found[1], "md")
    assert capsys.readouterr().out == (RESULTS / study / "board.md").read_text()


def test_a_variant_is_not_better_than_itself() -> None:
    board = pd.read_parquet(RESULTS / "aa" / "leaderboard.parquet").set_index("space")
    assert board["verdict"].to_dict() == {"sgd_a": "baseline", "sgd_b": "tied"}
    assert set(board["searches"]) == {3}
    mean, low, high = (100 * board.loc["sgd_b", f"diff_{end}"] for end in ("mean", "lo", "hi"))
    assert f"{mean:.2f} points ({low:.2f} to {high:.2f})" in TEXT


def test_every_row_has_three_searches_of_five_seeds(board: pd.DataFrame) -> None:
    assert len(board) == 23
    assert set(board["searches"]) == {3} and set(board["repeats"]) == {15}
    assert set(board["test_openings"]) == {15} and set(board["trials"]) == {72}
    assert board["trials"].sum() == 1656 and board["repeats"].sum() == 345
    assert "1,656 trials" in TEXT and "345 repeats" in TEXT


def test_the_text_says_what_the_tables_hold(board: pd.DataFrame, pairs: pd.DataFrame) -> None:
    rows = board.set_index("space")
    question = board[board["budget_max"] == 20].set_index("space")
    leads = 100 * question["diff_mean"].dropna()
    assert f"by {leads.min():.2f} to {leads.max():.2f} points" in TEXT
    words = question["verdict"].value_counts()
    better = question.index[question["verdict"] == "better"].tolist()
    tied = question.index[question["verdict"] == "tied"].tolist()
    assert (better, tied, words["underpowered"]) == (["fisher_sam"], ["adamw"], 19)
    four = question.index[question["searches_needed"] == 4]
    assert set(four) == {"look_sam", "sam", "stable_sam", "k_sam"}
    undecided = (pairs["verdict"] == "underpowered").sum()
    assert f"{undecided} of the {len(pairs)} pairs are undecided" in TEXT
    for row in ("sgd-2x", "sgd"):
        assert f"{100 * rows.loc[row, 'test_acc_mean']:.2f} %" in TEXT
    assert f"at most {100 * board['between_search_sd'].max():.2f} points" in TEXT
    assert (question["between_search_sd"] == 0).sum() == 9 and "for the nine variants" in TEXT
    low, high = 100 * board["optimism"].min(), 100 * board["optimism"].max()
    assert f"an optimism of {low:.2f} to {high:.2f} points" in TEXT
