"""Comparisons by their plans: fixed, in looks, with added seeds, and of equal rows."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from test_statistics import COUNTS, MARGIN, N_TEST

from analysis.comparison import Comparison, Scores, judge, rank_sets, scores
from analysis.statistics import e_reach, e_value, paired

LOOKS = "looks 5 10 15 20"


def repeats(values: list[float], plans: list[str], **changes: object) -> pd.DataFrame:
    """Return the repeats of one search, by seed bundle."""
    frame = pd.DataFrame({"test_acc": values, "plan": plans, "search": 0, "state": "completed"})
    return frame.assign(seed_bundle=range(len(values)), **changes)


def of(space: str, plans: list[str]) -> pd.DataFrame:
    counts = [int(count) / N_TEST for count in COUNTS[space].split()]
    return repeats(counts[: len(plans)], plans)


def compared(rows: dict[str, pd.DataFrame], baseline: str) -> dict[str, Comparison]:
    found = scores(rows, "test_acc", 1.0)
    return {
        name: Comparison(own, found[baseline], N_TEST)
        for name, own in found.items()
        if name != baseline
    }


def test_looks_end_at_the_first_decision() -> None:
    rows = {space: of(space, [LOOKS] * 20) for space in COUNTS}
    found = judge(compared(rows, "sgd"), MARGIN)
    assert {name: (each.word, each.look) for name, each in found.items()} == {
        "sam": ("better", 10),
        "asam": ("better", 10),
    }
    pair = found["sam"].pair
    assert pair is not None and (pair.n, pair.p) == (10, pytest.approx(6.740441317e-05))
    assert judge(compared(rows, "sam"), MARGIN)["asam"].word == "tied"
    undecided = judge(compared(rows, "sam"), 0.004)["asam"]
    assert (undecided.word, undecided.look) == ("underpowered", 20)


def test_a_decided_row_needs_no_later_seeds() -> None:
    rows = {"sgd": of("sgd", [LOOKS] * 20), "sam": of("sam", [LOOKS] * 10)}
    assert judge(compared(rows, "sgd"), MARGIN)["sam"].look == 10


def test_a_look_waits_for_the_seeds_that_run() -> None:
    base, own = of("sgd", [LOOKS] * 10), of("sam", [LOOKS] * 10)
    own.loc[9, "state"] = "running"
    early = judge(compared({"sgd": base, "sam": own}, "sgd"), MARGIN)["sam"]
    assert (early.word, early.look) == ("underpowered", 5)
    # A repeat that failed does not come again.
    own.loc[9, "state"] = "error"
    found = judge(compared({"sgd": base, "sam": own}, "sgd"), MARGIN)["sam"]
    assert (found.word, found.look) == ("better", 10)
    first = judge(compared({"sgd": base, "sam": own[:4]}, "sgd"), MARGIN)["sam"]
    assert (first.word, first.look) == ("underpowered", 0)
    assert first.pair is not None and first.pair.n == 4


def test_seeds_outside_the_plan_are_judged_by_the_e_value() -> None:
    plans = ["fixed 5"] * 5 + ["added"] * 5
    rows = {space: of(space, plans) for space in ("sgd", "sam")}
    assert scores(rows, "test_acc", 1.0)["sam"].described == "fixed 5, then 5 added"
    found = judge(compared(rows, "sgd"), MARGIN)["sam"]
    plain = paired(rows["sam"]["test_acc"], rows["sgd"]["test_acc"], N_TEST, MARGIN)
    pair = found.pair
    assert pair is not None and (pair.n, pair.mean) == (10, plain.mean)
    assert pair.p == pytest.approx(1 / e_value(plain.t, 10))
    assert pair.p > plain.p and pair.lo < plain.lo
    # A tie is tested on the planned seeds alone.
    assert pair.p_tied == pytest.approx(0.9587843482)
    # In one family of three, the e-value has to reach 3 / 0.05.
    assert e_value(plain.t, 10) >= 60 and found.word == "better"


def test_one_row_with_added_seeds_has_the_plan_of_the_common_ones() -> None:
    rows = {"sgd": of("sgd", ["fixed 5"] * 5), "sam": of("sam", ["fixed 5"] * 5 + ["added"] * 5)}
    pair = judge(compared(rows, "sgd"), MARGIN)["sam"].pair
    assert pair is not None and (pair.n, pair.p) == (5, pytest.approx(0.01240333159))


def test_the_interval_of_the_e_value_ends_where_it_rejects() -> None:
    for n in (5, 10, 40):
        assert e_value(e_reach(n, 0.05), n) == pytest.approx(20)
    # Three differences never are enough for a factor of twenty.
    assert e_reach(3, 0.05) == math.inf and e_value(1e9, 3) < 20


def test_a_verdict_about_the_variant_uses_the_seeds_of_the_first_look() -> None:
    rng = np.random.default_rng(1)
    frames = {}
    for name in ("sgd", "sam"):
        own = [repeats(rng.normal(size=10).tolist(), [LOOKS] * 10) for _ in range(3)]
        frames[name] = pd.concat([each.assign(search=k) for k, each in enumerate(own)])
    each = compared(frames, "sgd")["sam"]
    assert each.about == "variant" and each.looks == ()
    means = {
        name: frame[frame["seed_bundle"] < 5].groupby("search")["test_acc"].mean()
        for name, frame in frames.items()
    }
    pair = each.pair(0.0)
    assert pair is not None and pair.n == 3
    assert pair.mean == pytest.approx((means["sam"] - means["sgd"]).mean())


def test_a_search_counts_where_both_rows_completed_it() -> None:
    three = pd.concat([repeats([0.9, 0.8], ["fixed 2"] * 2, search=k) for k in range(3)])
    failed = three.copy()
    failed.loc[failed["search"] == 2, "state"] = "error"
    found = compared({"sgd": three, "sam": failed}, "sgd")["sam"]
    assert found.about == "configuration"
    pair = found.pair(0.0)
    assert pair is not None and pair.n == 4


def made(
    rng: np.random.Generator, searches: int, seeds: int, plan: str, spread: float = 1.0
) -> list[Scores]:
    """Return two rows of one distribution, bundles and seeds with a unit standard deviation.

    Args:
        rng: The source of the draws.
        searches: Number of searches.
        seeds: Number of seeds of each.
        plan: The plan; `added` stands for a plan of five and seeds outside it.
        spread: Standard deviation between searches.

    """
    n = searches * seeds
    search = np.repeat(np.arange(searches), seeds)
    bundle, every = rng.normal(size=n), np.ones(n, bool)
    added = np.arange(n) % seeds >= 5 if plan == "added" else ~every
    text = "fixed 5" if plan == "added" else plan
    return [
        Scores(spread * rng.normal(size=searches)[search] + bundle + rng.normal(size=n), *rest)
        for rest in [(every, added, search, text)] * 2
    ]


@pytest.mark.parametrize(
    ("searches", "seeds", "plan"),
    [(3, 5, "fixed 5"), (5, 3, "fixed 3"), (3, 20, LOOKS)],
)
def test_equal_variants_differ_in_five_percent_at_most(
    searches: int, seeds: int, plan: str
) -> None:
    rng = np.random.default_rng(7)
    boards, wrong = 800, 0
    for _ in range(boards):
        row, other = made(rng, searches, seeds, plan)
        word = judge({0: Comparison(row, other, None)}, 0.0)[0].word
        wrong += word in {"better", "worse"}
    assert wrong / boards <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / boards)
    # With this many boards some are wrong: a test that never rejects would pass for free.
    assert wrong > 0


@pytest.mark.parametrize("plan", ["fixed 5", LOOKS, "added"])
def test_equal_configurations_differ_in_five_percent_at_most(plan: str) -> None:
    """Added seeds are looked at after each one."""
    rng = np.random.default_rng(8)
    boards, wrong = 400, 0
    for _ in range(boards):
        row, other = made(rng, 1, 5 if plan == "fixed 5" else 20, plan, spread=0.0)
        wrong += _ever_decided(row, other, plan)
    assert 0 < wrong / boards <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / boards)


def _ever_decided(row: Scores, other: Scores, plan: str) -> bool:
    lengths = range(6, 21) if plan == "added" else [len(row.values)]
    for n in lengths:
        pair = [
            Scores(each.values[:n], each.ended[:n], each.added[:n], each.search[:n], each.plan)
            for each in (row, other)
        ]
        if judge({0: Comparison(*pair, None)}, 0.0)[0].word in {"better", "worse"}:
            return True
    return False


def test_equal_rows_have_all_ranks() -> None:
    rng = np.random.default_rng(3)
    rows = dict(enumerate(made(rng, 3, 5, "fixed 5")))
    both = {(a, b): Comparison(rows[a], rows[b], None) for a in rows for b in rows if a != b}
    assert rank_sets(list(rows), both) == {0: (1, 2), 1: (1, 2)}
