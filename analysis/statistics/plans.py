"""The words for a family of comparisons, after a fixed number of seeds or at planned looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from analysis.statistics.pairs import (
    ALPHA,
    Name,
    Paired,
    Scores,
    Word,
    common,
    holm,
    paired,
    word,
)

LOOKS = (5, 10, 15, 20)
LEVELS = (0.001, 0.007, 0.015, 0.027)
"""Seeds per look and the level of each look. The levels add up to `ALPHA` (union bound)."""


@dataclass(frozen=True)
class Judged:
    """A comparison with its word.

    Attributes:
        word: The word.
        look: The look at which the word fell; for an undecided comparison the last one reached.
        pair: The comparison at that look; None for fewer than two common bundles.
        p_holm: Its p-value, adjusted for its family at that look.
    """

    word: Word
    look: int
    pair: Paired | None
    p_holm: float | None


def decide(
    pairs_at: Callable[[int], Mapping[Name, Paired | None]],
    looks: Sequence[int],
    levels: Sequence[float],
    family: int,
) -> dict[Name, Judged]:
    """Judge the comparisons of a family at each look, each until its first decision.

    Holm's method holds within a look. A comparison that was found tied at an earlier look stays
    in the family; one that was found better or worse leaves it.

    Args:
        pairs_at: Returns the comparisons that have reached a look, with the scores up to there;
            None for one with fewer than two common bundles.
        looks: Increasing numbers of seeds after which the scores are looked at.
        levels: Level of each look; their sum is the family error rate.
        family: Number of comparisons in the family, with those that have not reached a look.

    Returns:
        The comparisons that have reached a look.

    """
    if len(looks) != len(levels) or list(looks) != sorted(set(looks)):
        raise ValueError("looks increase, and each has a level")
    found: dict[Name, Judged] = {}
    for look, level in zip(looks, levels, strict=True):
        open_ = {
            name: pair
            for name, pair in pairs_at(look).items()
            if name not in found or found[name].word == "underpowered"
        }
        rejected = sum(each.word in {"better", "worse"} for each in found.values())
        tested = {name: pair.p for name, pair in open_.items() if pair is not None}
        adjusted = holm(tested, family - rejected)
        for name, pair in open_.items():
            said = word(pair, adjusted[name], level) if pair is not None else "underpowered"
            found[name] = Judged(said, look, pair, adjusted.get(name))
    return found


def decide_once(pairs: Mapping[Name, Paired | None], family: int) -> dict[Name, Judged]:
    """Judge comparisons of a family by a fixed plan: one look, at all there is."""
    return decide(lambda _: pairs, (0,), (ALPHA,), family)


def verdicts(scores: Scores, baseline: str, n_test: int | None, margin: float) -> dict[str, Word]:
    """Compare every variant with the baseline after a fixed number of seeds.

    The family error of `better` and `worse` is at most 5 % by Holm's method; each `tied` is a
    test at 5 %.

    Args:
        scores: Scores per variant in the order of the common bundles; NaN for a missing one.
        baseline: The variant that the others are compared with.
        n_test: Size of the test split, None for a metric that is not an accuracy.
        margin: Largest difference that counts as a tie.

    Returns:
        A word per variant other than the baseline. A variant with fewer than two bundles in
        common with the baseline is `underpowered`.

    """
    pairs = _against(scores, baseline, n_test, margin)
    found = decide_once(pairs, len(pairs))
    return {name: judged.word for name, judged in found.items()}


def until_decided(
    scores: Scores,
    baseline: str,
    n_test: int | None,
    margin: float,
    looks: Sequence[int] = LOOKS,
    levels: Sequence[float] = LEVELS,
) -> dict[str, tuple[Word, int]]:
    """Compare every variant with the baseline at planned looks, each until its first decision.

    `decide` has the rule.

    Args:
        scores: Scores per variant in the order of the common bundles.
        baseline: The variant that the others are compared with.
        n_test: Size of the test split, None for a metric that is not an accuracy.
        margin: Largest difference that counts as a tie.
        looks: Increasing numbers of seeds after which the scores are looked at.
        levels: Level of each look; their sum is the family error rate.

    Returns:
        Per variant the word and the number of seeds it was found at: for an undecided variant
        the last look that the scores reach.

    """
    others = _others(scores, baseline)
    available = min(len(scores[name]) for name in [baseline, *others])

    def at(look: int) -> dict[str, Paired | None]:
        if look > available:
            return {}
        so_far = {name: values[:look] for name, values in scores.items()}
        return _against(so_far, baseline, n_test, margin)

    found = decide(at, looks, levels, len(others))
    early: tuple[Word, int] = ("underpowered", available)
    return {
        name: (found[name].word, found[name].look) if name in found else early for name in others
    }


def rank_sets(scores: Scores, n_test: int | None) -> dict[str, tuple[int, int]]:
    """Return the ranks of each variant that its comparisons do not exclude, 95 % for each row.

    Holm's method holds over the K - 1 comparisons of a row. The lowest rank is 1 + the number of
    variants significantly above, the highest K - the number significantly below.

    Args:
        scores: Scores per variant in the order of the common bundles.
        n_test: Size of the test split, None for a metric that is not an accuracy.

    """
    # A margin of zero calls no tie.
    return {
        name: ranks(list(verdicts(scores, name, n_test, 0.0).values()), len(scores))
        for name in scores
    }


def ranks(others: Sequence[Word], rows: int) -> tuple[int, int]:
    """Return the ranks of a row that the words for the other rows do not exclude.

    Args:
        others: `better` for each of the others that is better than the row, and so on.
        rows: The number of rows, with this one.

    """
    return 1 + others.count("better"), rows - others.count("worse")


def _against(
    scores: Scores, baseline: str, n_test: int | None, margin: float
) -> dict[str, Paired | None]:
    return {
        name: paired(scores[name], scores[baseline], n_test, margin)
        if common(scores[name], scores[baseline]) >= 2
        else None
        for name in _others(scores, baseline)
    }


def _others(scores: Scores, baseline: str) -> list[str]:
    if baseline not in scores:
        raise ValueError(f"the baseline {baseline!r} has no scores; there are {', '.join(scores)}")
    return [name for name in scores if name != baseline]
