"""The committed results of studies: their text says what their tables hold."""

from __future__ import annotations

import re
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


@pytest.mark.parametrize("study", ["digits", "cifar10", "aa"])
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


def test_sgd_leads_where_little_is_trained() -> None:
    board = pd.read_parquet(RESULTS / "cifar10" / "leaderboard.parquet")
    assert len(board) == 10 and set(board["searches"]) == {2} and set(board["repeats"]) == {10}
    assert set(board["verdict"]) == {"baseline", "worse"}
    assert set(board["verdict_about"].dropna()) == {"configuration"}
    leads = -100 * board.set_index("label_noise")["diff_mean"].dropna()
    for noise, words in ((0.0, "on clean labels"), (0.4, "on noisy ones")):
        low, high = leads[noise].min(), leads[noise].max()
        assert re.search(f"by {low:.2f} to {high:.2f} points {words}", TEXT)


def test_every_row_has_five_searches_of_five_seeds(board: pd.DataFrame) -> None:
    assert len(board) == 2 * 22 + 1
    assert set(board["searches"]) == {5} and set(board["repeats"]) == {25}
    assert set(board["test_openings"]) == {25} and set(board["trials"]) == {5, 120}
    assert f"{board['trials'].sum():,} trials" in TEXT
    assert f"{board['repeats'].sum():,} repeats" in TEXT


def test_the_text_says_what_the_tables_hold(board: pd.DataFrame, pairs: pd.DataFrame) -> None:
    rows = board.set_index("space")
    every = board[board["budget_max"] == 20].set_index("space")
    default = every.index.str.endswith("-default")
    searched, means = every[~default], 100 * every["test_acc_mean"]
    words = {word: own.index.tolist() for word, own in searched.groupby("verdict")}
    assert words["better"] == ["k_sam", "stable_sam", "bayesian_sam", "sam", "look_sam"]
    leads = 100 * searched.loc[words["better"], "diff_mean"]
    assert f"by {leads.min():.2f} to {leads.max():.2f} points" in TEXT
    assert sorted(words["tied"]) == ["adamw", "momentum_sam", "wsam"]
    assert len(words["underpowered"]) == 13 and (searched["diff_mean"].dropna() > 0).all()
    assert every[default & (every["verdict"] == "better")].index.tolist() == [
        "friendly_sam-default"
    ]
    assert every.loc["k_sam-default", "verdict"] == "worse"
    gains = {name: means[name] - means[f"{name}-default"] for name in searched.index}
    assert min(gains, key=lambda name: gains[name]) == "wsam"
    assert max(gains, key=lambda name: gains[name]) == "sgd"
    assert f"between {gains['wsam']:.2f} points (wsam) and {gains['sgd']:.2f} points (sgd)" in TEXT
    low, high = every.loc["k_sam", ["rank_lo", "rank_hi"]]
    assert f"anything from {low:.0f} to {high:.0f} of {len(every)}" in TEXT
    count = pairs["verdict"].value_counts()
    assert f"{count['underpowered']} of the {len(pairs)} pairs are undecided" in TEXT
    assert f"and {count['tied']} are tied" in TEXT
    for row in ("sgd-2x", "sgd"):
        assert f"{100 * rows.loc[row, 'test_acc_mean']:.2f} %" in TEXT
    assert f"at most {100 * searched['between_search_sd'].max():.2f} points" in TEXT
    assert f"0 for the {(searched['between_search_sd'] == 0).sum()} variants" in TEXT
    low, high = 100 * searched["optimism"].min(), 100 * searched["optimism"].max()
    assert f"an optimism of {low:.2f} to {high:.2f} points" in TEXT
