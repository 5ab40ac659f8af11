"""Comparisons of two rows of the board over the repeats of their winners.

A comparison is about the variant where both rows completed three searches or more: it tests the
mean difference of each search, so that the spread of searches counts. With fewer searches it is
about the configurations that won, and tests the differences of the seed bundles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import statistics
from analysis.row import SEARCHES
from analysis.statistics import ALPHA, Judged, Paired
from analysis.statistics.pairs import Name

About = Literal["configuration", "variant"]
ADDED = "added"
"""The plan of a repeat that was added outside the plan on record."""


@dataclass(frozen=True)
class Scores:
    """The scores of a confirmed row, by the searches and seed bundles of its question.

    Attributes:
        values: The scores, larger is better; NaN where a repeat ended without one.
        ended: Where the row has a repeat that has ended.
        added: Where this repeat was added outside the plan.
        search: The search of each place.
        plan: The plan of the other repeats: `fixed 5`, or `looks 5 10 15 20`.
        test_split: The digest of the test split that all its repeats share; empty where they do
            not, or did not say.
        right: Which images of that split each repeat got right, shape (places, images).
    """

    values: NDArray[np.float64]
    ended: NDArray[np.bool_]
    added: NDArray[np.bool_]
    search: NDArray[np.int64]
    plan: str
    test_split: str = ""
    right: NDArray[np.bool_] | None = None

    @property
    def looks(self) -> tuple[int, ...]:
        """The looks of the plan; empty for a fixed number of seeds."""
        kind, *numbers = self.plan.split()
        return tuple(map(int, numbers)) if kind == "looks" else ()

    @property
    def described(self) -> str:
        """The plan and what came after it: `fixed 5, then 3 added`."""
        more = _per_search(self.search[self.added])
        return f"{self.plan}, then {more} added" if more else self.plan

    @property
    def about(self) -> About:
        """The subject of a comparison with a row of the same searches."""
        return _about(self.search[np.isfinite(self.values)])


def scores(rows: Mapping[Name, pd.DataFrame], metric: str, sign: float) -> dict[Name, Scores]:
    """Return the scores of the rows of a question.

    Args:
        rows: The repeats of the winners of each row, one per search and seed bundle.
        metric: The metric on test.
        sign: -1 for a metric that is minimised.

    """
    ended = {
        name: own[~own["state"].isin(["running", "paused"])].set_index(["search", "seed_bundle"])
        for name, own in rows.items()
    }
    places = sorted({place for own in ended.values() for place in own.index})
    index = pd.MultiIndex.from_tuples(places, names=["search", "seed_bundle"])
    search = np.array([place[0] for place in places], int)
    found = {}
    for name, own in ended.items():
        values = sign * own[metric].astype(float).where(own["state"] == "completed")
        plan = own.get("plan", pd.Series(index=own.index, dtype=object))
        known = plan[plan != ADDED].dropna()
        here = index.isin(own.index)
        # A run of a samtune that had no plans on record has as many seeds as it was told.
        text = str(known.iloc[-1]) if len(known) else f"fixed {_per_search(search[here])}"
        added = index.isin(own.index[plan == ADDED])
        there = np.asarray(values.reindex(index), np.float64)
        images = _images(own, index) if metric == "test_acc" else ("", None)
        found[name] = Scores(there, here, added, search, text, *images)
    return found


def _images(own: pd.DataFrame, index: pd.MultiIndex) -> tuple[str, NDArray[np.bool_] | None]:
    """Return the test split that all completed repeats share, and what each got right there."""
    done = own[own["state"] == "completed"]
    split, bits = done.get("test_split"), done.get("test_bits")
    if split is None or bits is None or bits.isna().any() or len({*split}) != 1:
        return "", None
    if split.isna().any() or done["n_test"].nunique() != 1:
        return "", None
    size = int(done["n_test"].iloc[0])
    rows = [np.frombuffer(each, np.uint8) for each in bits]
    if any(8 * len(row) < size for row in rows):
        return "", None
    right = np.zeros((len(index), size), np.bool_)
    right[index.get_indexer(done.index)] = [np.unpackbits(row, count=size) for row in rows]
    return str(split.iloc[0]), right


class Comparison:
    """Two rows over the bundles that both completed.

    Attributes:
        about: `variant` where both rows completed three searches, else `configuration`.
        looks: The looks that the comparison was planned with; empty for a single test.
    """

    def __init__(self, a: Scores, b: Scores, n_test: int | None) -> None:
        both = a.ended & b.ended
        self._n_test = n_test
        self._search, self._a, self._b = a.search[both], a.values[both], b.values[both]
        added = (a.added | b.added)[both]
        common = np.isfinite(self._a) & np.isfinite(self._b)
        self._planned = common & ~added
        # The place of a bundle among the planned ones of its search, from 0.
        self._place = np.full(len(added), -1)
        for search in np.unique(self._search):
            own = (self._search == search) & ~added
            self._place[own] = np.arange(own.sum())
        self.about = _about(self._search[self._planned])
        outside = bool((common & added).any()) and self.about == "configuration"
        self._used = common if outside else self._planned
        looks = a.looks or b.looks
        # Seeds up to the first look are what they are, whatever a look then decides.
        if self.about == "variant" and looks:
            self._used = self._planned & (self._place < looks[0])
        shared = a.test_split == b.test_split and bool(a.test_split) and not outside
        self._right = None
        if shared and a.right is not None and b.right is not None:
            self._right = a.right[both], b.right[both]
        self._outside = outside
        self.looks: tuple[int, ...] = () if self.about == "variant" or outside else looks

    def reached(self, look: int) -> bool:
        """Return whether every search that both rows have has reached a look."""
        come = self._search[(self._place >= 0) & (self._place < look)]
        counts = np.unique(come, return_counts=True)[1]
        return len(counts) > 0 and bool(counts.min() >= look)

    def pair(self, margin: float, look: int | None = None) -> Paired | None:
        """Return the test over the seeds up to a look, or over all seeds.

        With seeds outside the plan `p` is 1 / e of the e-value, and the interval is the one that
        is valid at any number of seeds; a tie is tested on the planned seeds.

        Args:
            margin: Largest difference that counts as a tie.
            look: The look.

        Returns:
            None for fewer than two common bundles.

        """
        if look is not None:
            return self._paired(self._planned & (self._place < look), margin)
        if self.about == "variant":
            x, y = self._of_searches(self._a), self._of_searches(self._b)
            return statistics.paired(x, y, self._n_test, margin) if len(x) >= 2 else None
        found = self._paired(self._used, margin)
        if found is None or not self._outside:
            return found
        planned = self._paired(self._planned, margin)
        half = statistics.e_reach(found.n, ALPHA) * found.se
        return replace(
            found,
            p=min(1.0, 1 / statistics.e_value(found.t, found.n)),
            lo=found.mean - half,
            hi=found.mean + half,
            p_tied=1.0 if planned is None else planned.p_tied,
        )

    def images(self, look: int | None = None) -> tuple[float, float, float] | None:
        """Return the interval and p of the mean difference if test images were drawn anew too.

        It is over the same repeats as `pair`.

        Args:
            look: The look.

        Returns:
            None where the two rows do not share one test split, or have seeds outside the plan.

        """
        used = self._used if look is None else self._planned & (self._place < look)
        if self._right is None or used.sum() < 2:
            return None
        sides = [each[used].astype(float) for each in self._right]
        if self.about == "variant":
            search = self._search[used]
            if len(np.unique(search)) < 2:
                return None
            sides = [
                np.stack([each[search == own].mean(axis=0) for own in np.unique(search)])
                for each in sides
            ]
        return statistics.images_test(*sides)[1:]

    def _paired(self, used: NDArray[np.bool_], margin: float) -> Paired | None:
        if used.sum() < 2:
            return None
        x, y = self._a[used].tolist(), self._b[used].tolist()
        return statistics.paired(x, y, self._n_test, margin)

    def _of_searches(self, values: NDArray[np.float64]) -> list[float]:
        """Return the mean over the common bundles of each search."""
        search = self._search[self._used]
        return [float(values[self._used][search == each].mean()) for each in np.unique(search)]


def judge(compared: Mapping[Name, Comparison], margin: float) -> dict[Name, Judged]:
    """Judge the comparisons of one family; its error is at most 5 %.

    Comparisons with looks are judged at their looks, the others once. Each of these groups is
    corrected for the whole family, so together they keep its error.

    Args:
        compared: The comparisons.
        margin: Largest difference that counts as a tie.

    """
    family = len(compared)
    found: dict[Name, Judged] = {}
    for looks in dict.fromkeys(each.looks for each in compared.values()):
        own = {key: each for key, each in compared.items() if each.looks == looks}
        if not looks:
            pairs = {key: each.pair(margin) for key, each in own.items()}
            found |= statistics.decide_once(pairs, family)
            continue
        looks = looks[: len(statistics.LEVELS)]
        levels = statistics.LEVELS[: len(looks)]

        def at(look: int, own: Mapping[Name, Comparison] = own) -> dict[Name, Paired | None]:
            reached = {key: each for key, each in own.items() if each.reached(look)}
            return {key: each.pair(margin, look) for key, each in reached.items()}

        early = {
            key: Judged("underpowered", 0, each.pair(margin), None) for key, each in own.items()
        }
        found |= early | statistics.decide(at, looks, levels, family)
    return {key: found[key] for key in compared}


def rank_sets(
    names: Sequence[Name], compared: Mapping[tuple[Name, Name], Comparison]
) -> dict[Name, tuple[int, int]]:
    """Return the ranks of each row that its comparisons do not exclude, 95 % for each row.

    Args:
        names: The rows.
        compared: The comparison of each pair, in both orders.

    """
    sets = {}
    for name in names:
        own = {other: compared[other, name] for other in names if other != name}
        # A margin of zero calls no tie.
        words = [judged.word for judged in judge(own, 0.0).values()]
        sets[name] = statistics.ranks(words, len(names))
    return sets


def _about(searches: NDArray[np.int64]) -> About:
    return "variant" if len(np.unique(searches)) >= SEARCHES else "configuration"


def _per_search(searches: NDArray[np.int64]) -> int:
    """Return the largest number of seeds that one search has."""
    return int(np.unique(searches, return_counts=True)[1].max(initial=0))
