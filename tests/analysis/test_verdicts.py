"""Verdicts of hand-made boards, with the golden scores of three variants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_leaderboard import folder, repeat, trial
from test_statistics import COUNTS

from analysis import paper
from analysis.board import cells
from analysis.board import headings as heads_of
from analysis.leaderboard import leaderboard, save
from analysis.statistics import images_test
from analysis.summary import summary
from analysis.verdicts import judged
from samtune.record import tables


def rows_of(space: str, seeds: int = 5, **changes: Any) -> tuple[dict[str, Any], list[Any]]:
    who = {"space": space, "variant": space, **changes}
    counts = [int(count) / 500 for count in COUNTS[space].split()[:seeds]]
    search = trial(1, "completed", 0.9327, **who)
    return search, [repeat(bundle, score, **who) for bundle, score in enumerate(counts)]


def board_of(path: Path, *spaces: str, **words: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    found = [rows_of(space, **words) for space in spaces]
    repeats = [each for _, own in found for each in own]
    place = folder(path / "r", [search for search, _ in found], repeats)
    return judged(leaderboard([place]), [place])


def by_space(board: pd.DataFrame) -> dict[str, dict[str, Any]]:
    return {row["space"]: row for row in board.to_dict("records")}


def test_each_row_is_compared_with_the_baseline(tmp_path: Path) -> None:
    board, _ = board_of(tmp_path, "sgd", "sam", "asam")
    rows = by_space(board)
    assert [rows[name]["verdict"] for name in ("sgd", "sam", "asam")] == [
        "baseline",
        "better",
        "better",
    ]
    sam = rows["sam"]
    assert sam["diff_mean"] == pytest.approx(0.024)
    assert sam["diff_lo"] == pytest.approx(0.008591355004)
    assert sam["p_holm"] == pytest.approx(0.02480666317)
    assert sam["margin"] == pytest.approx(0.01120452676)
    assert (sam["n"], sam["wins"], sam["baseline"], sam["plan"]) == (5, 1.0, "sgd", "fixed 5")
    assert sam["verdict_about"] == "configuration"
    assert (sam["rank_lo"], sam["rank_hi"]) == (1, 2)
    assert (rows["sgd"]["rank_lo"], rows["sgd"]["rank_hi"]) == (3, 3)


def test_a_row_says_what_share_of_the_errors_it_saves(tmp_path: Path) -> None:
    sam = by_space(board_of(tmp_path, "sgd", "sam")[0])["sam"]
    # 0.024 of the baseline's 0.08.
    assert sam["error_reduction"] == pytest.approx(0.024 / 0.08)


def test_random_searches_say_how_soon_they_reach_the_baseline(tmp_path: Path) -> None:
    searches, repeats = [], []
    for space, values in (("sgd", [0.5, 0.6]), ("sam", [0.5, 0.6, 0.7]), ("asam", [0.1, 0.2])):
        who = {"space": space, "variant": space}
        searches += [trial(1, "completed", max(values), **who, search_alg="random")]
        searches += [
            trial(2 + k, "completed", value, **who, search_alg="random")
            for k, value in enumerate(values[:-1])
        ]
        repeats += [repeat(k, 0.5 + k / 100, **who) for k in range(2)]
    place = folder(tmp_path / "r", searches, repeats)
    rows = by_space(judged(leaderboard([place]), [place])[0])
    # Both of SGD's are expected to reach 0.575; one of SAM's reaches 0.6, the mean.
    assert rows["sam"]["trials_to_baseline"] == 1 and pd.isna(rows["asam"]["trials_to_baseline"])
    assert rows["sgd"]["trials_to_baseline"] == 2


def test_all_pairs_are_a_family_of_their_own(tmp_path: Path) -> None:
    board, pairs = board_of(tmp_path, "sgd", "sam", "asam")
    found = {(row["space_a"], row["space_b"]): row for row in pairs.to_dict("records")}
    assert set(found) == {("sam", "asam"), ("asam", "sgd"), ("sam", "sgd")}
    assert found["sam", "asam"]["verdict"] == "tied"
    # Three hypotheses in place of two.
    assert found["sam", "sgd"]["p_holm"] == pytest.approx(3 * 0.01240333159)
    assert summary(board, pairs) == (
        "sam leads. It is better than sgd. It is tied with asam. "
        "Differences below 1.12 points count as tied (2 % of the baseline's error, or one "
        "standard error of the test split if larger). "
        "The verdicts are about one configuration per row: fewer than three searches each, "
        "search variance not measured."
    )


def test_a_paper_has_marks_and_intervals(tmp_path: Path) -> None:
    board, _ = board_of(tmp_path, "sgd", "sam", seeds=3)
    headings, rows, note = paper.table(board)
    assert headings == ["variant", "test acc %", "against sgd", "", "Holm p", "ranks", "repeats"]
    minus = "\N{MINUS SIGN}"
    interval = f"+2.13 [{minus}1.53, +5.80]"
    assert rows[0] == ["sam", "93.67 [91.37, 95.96]", interval, "○", "0.129", "1-2", "3"]
    assert note.endswith("Holm's correction ○ underpowered, about one configuration per row.")
    whole, short = cells(board)[0], cells(board, short=True)[0]
    where = heads_of(board).index("verdict")
    assert whole[where].startswith("underpowered (about ") and short[where] == "underpowered"


def test_what_it_would_take_is_said(tmp_path: Path) -> None:
    board, pairs = board_of(tmp_path, "sgd", "sam", seeds=3)
    row = pairs.iloc[0]
    assert row["verdict"] == "underpowered"
    more = int(row["seeds_needed"]) - 3
    assert (
        "sam leads. It cannot be distinguished from sgd; "
        f"about {more} more seeds each would distinguish them."
    ) in summary(board, pairs)


def test_a_lead_of_rounding_errors_takes_more_seeds_than_are_counted(tmp_path: Path) -> None:
    search = [trial(1, "completed", 0.9, space=name, variant=name) for name in ("sgd", "sam")]
    scores = {"sgd": (0.488, 0.342, 0.972), "sam": (0.342, 0.972, 0.488)}
    repeats = [
        repeat(bundle, score, space=name, variant=name)
        for name, own in scores.items()
        for bundle, score in enumerate(own)
    ]
    place = folder(tmp_path / "r", search, repeats)
    board, pairs = judged(leaderboard([place]), [place])
    assert 0 < abs(pairs["diff_mean"].iloc[0]) < 1e-15
    save(pairs, tmp_path / "pairs.parquet", [place], "pairs")
    assert "more than 10,000 more seeds each" in summary(board, pairs)


def test_pairing_is_by_bundle_and_never_by_place(tmp_path: Path) -> None:
    sam, own = rows_of("sam")
    sgd, others = rows_of("sgd")
    straight = folder(tmp_path / "a", [sam, sgd], own + others)
    mixed = folder(tmp_path / "b", [sam, sgd], own[::-1] + others[2:] + others[:2])
    first, second = (
        by_space(judged(leaderboard([place]), [place])[0])["sam"] for place in (straight, mixed)
    )
    assert first["p"] == second["p"] == pytest.approx(0.01240333159)


def shared(space: str, split: str, drawn: int) -> tuple[dict[str, Any], list[Any]]:
    """Return a row whose repeats get 450 of the same 500 images right, and 0 to 40 others."""
    search, own = rows_of(space)
    for k, row in enumerate(own):
        right = np.arange(500) < (450 if space == "sgd" else 465)
        right[470:] = np.random.default_rng(drawn + k).random(30) < 0.5
        row |= {"test_bits": np.packbits(right).tobytes(), "test_split": split}
        row |= {"test_correct": int(right.sum()), "test_acc": right.mean()}
    return search, own


def test_on_a_shared_test_split_the_images_count_too(tmp_path: Path) -> None:
    found = [shared("sgd", "one", 1), shared("sam", "one", 2)]
    place = folder(tmp_path / "r", [f[0] for f in found], [row for f in found for row in f[1]])
    board, pairs = judged(leaderboard([place]), [place])
    sam, pair = by_space(board)["sam"], pairs.iloc[0]
    bits = {
        name: [np.unpackbits(np.frombuffer(row["test_bits"], np.uint8), count=500) for row in own]
        for name, (_, own) in zip(("sgd", "sam"), found, strict=True)
    }
    mean, low, high, p = images_test(bits["sam"], bits["sgd"])
    assert sam["diff_mean"] == pytest.approx(mean)
    assert (sam["images_lo"], sam["images_hi"], sam["images_p"]) == pytest.approx((low, high, p))
    assert (pair["images_lo"], pair["images_p"]) == pytest.approx((low, p))
    assert sam["images_lo"] < sam["diff_lo"] and "may vanish" not in summary(board, pairs)
    pairs["images_lo"] = -0.001
    assert "with other images of its kind the difference to sgd may vanish" in summary(
        board, pairs
    )


@pytest.mark.parametrize("change", [{"test_split": "two"}, {"test_bits": None}, {"plan": "added"}])
def test_without_a_shared_test_split_there_is_no_interval_over_images(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    found = [shared("sgd", "one", 1), shared("sam", "one", 2)]
    found[1][1][-1] |= change
    place = folder(tmp_path / "r", [f[0] for f in found], [row for f in found for row in f[1]])
    board, pairs = judged(leaderboard([place]), [place])
    assert board["images_p"].isna().all() and pairs["images_p"].isna().all()


def test_bundles_that_one_row_lacks_are_left_out(tmp_path: Path) -> None:
    sam, own = rows_of("sam", seeds=10)
    sgd, others = rows_of("sgd")
    place = folder(tmp_path / "r", [sam, sgd], own + others)
    rows = by_space(judged(leaderboard([place]), [place])[0])
    assert rows["sam"]["n"] == 5 and rows["sam"]["p"] == pytest.approx(0.01240333159)


def test_a_metric_that_is_minimised_is_better_where_it_is_lower(tmp_path: Path) -> None:
    changes = {"metric": "val_loss", "mode": "min"}
    searches, repeats = [], []
    for space, losses in (("sgd", (0.5, 0.6, 0.55)), ("sam", (0.2, 0.31, 0.24))):
        who = {"space": space, "variant": space, **changes}
        searches.append(trial(1, "completed", 0.9, val_loss=0.5, **who))
        repeats += [repeat(b, 0.9, test_loss=loss, **who) for b, loss in enumerate(losses)]
    place = folder(tmp_path / "r", searches, repeats)
    rows = by_space(judged(leaderboard([place]), [place])[0])
    assert rows["sam"]["verdict"] == "better"
    assert rows["sam"]["diff_mean"] == pytest.approx(0.3)
    # Two percent of the baseline's loss: a loss has no binomial error.
    assert rows["sam"]["margin"] == pytest.approx(0.01)
    board, pairs = judged(leaderboard([place]), [place])
    assert "below 0.01 count as tied (2 % of the baseline's value)." in summary(board, pairs)


def test_a_space_may_set_the_margin(tmp_path: Path) -> None:
    board, pairs = board_of(tmp_path, "sgd", "sam", tie_margin=0.05)
    assert by_space(board)["sam"]["margin"] == 0.05
    assert by_space(board)["sam"]["verdict"] == "tied"
    assert "below 5.00 points count as tied (as the space says)." in summary(board, pairs)


def test_diverged_and_unconfirmed_rows_have_no_verdict(tmp_path: Path) -> None:
    sam, own = rows_of("sam")
    sgd, others = rows_of("sgd")
    own[0] = {**own[0], "state": "diverged", "test_acc": None}
    asam, _ = rows_of("asam")
    place = folder(tmp_path / "r", [sam, sgd, asam], own + others)
    board, pairs = judged(leaderboard([place]), [place])
    rows = by_space(board)
    assert rows["sam"]["verdict"] == "diverged 1 of 5"
    assert pd.isna(rows["asam"]["verdict"])
    assert rows["sgd"]["verdict"] == "baseline"
    assert pairs.empty
    assert summary(board, pairs).startswith("sgd is the only confirmed row")


def test_without_the_baseline_there_are_pairs_alone(tmp_path: Path) -> None:
    board, pairs = board_of(tmp_path, "sam", "asam")
    assert board["verdict"].isna().all() and board["baseline"].isna().all()
    assert len(pairs) == 1 and pairs["verdict"][0] == "tied"
    place = tmp_path / "r"
    named, _ = judged(leaderboard([place]), [place], baseline="asam")
    assert by_space(named)["sam"]["verdict"] == "tied"


def test_an_unconfirmed_board_has_no_verdict(tmp_path: Path) -> None:
    place = folder(tmp_path / "r", [rows_of("sam")[0]], [])
    board, pairs = judged(leaderboard([place]), [place])
    assert pairs.empty and board["verdict"].isna().all()
    assert summary(board, pairs) == "No configuration is confirmed, so there is no verdict."


def test_pairs_are_written_and_read(tmp_path: Path) -> None:
    _, pairs = board_of(tmp_path, "sgd", "sam", "asam")
    rows = pairs.astype(object).where(pairs.notna(), None).to_dict("records")
    path = tmp_path / "pairs.parquet"
    tables.write(path, tables.schema("pairs"), [{str(k): v for k, v in r.items()} for r in rows])
    assert tables.read(path, "pairs").num_rows == 3


def test_the_summary_and_the_board_agree_about_the_baseline() -> None:
    from analysis.summary import summary

    who = {"metric": "val_acc", "run": "r", "margin": 0.01, "tie_margin": None}
    board = pd.DataFrame(
        [
            who | {"space": "sgd", "rank": 1, "verdict": "baseline"},
            who | {"space": "sam", "rank": 2, "verdict": "worse"},
            who | {"space": "asam", "rank": 3, "verdict": "underpowered", "seeds_needed": 12.0},
        ]
    )
    undecided = {"verdict": "underpowered", "n": 5, "seeds_needed": 30.0, "margin": 0.01}
    undecided |= {"verdict_about": "configuration", "run_a": "r", "run_b": "r"}
    # The family of all pairs is larger, so it may leave open what the baseline's has decided.
    pairs = pd.DataFrame(
        [
            undecided | {"space_a": a, "space_b": b}
            for a, b in (("sgd", "sam"), ("asam", "sgd"), ("sam", "asam"))
        ]
    )
    text = summary(board, pairs)
    assert "sgd leads. It is better than sam." in text
    assert "It cannot be distinguished from asam; about 7 more seeds each" in text
