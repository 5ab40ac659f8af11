"""The ranks of a board's rows that their comparisons do not exclude."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis.statistics.pairs import ALPHA, Name, Paired, Scores, common, holm, paired


def rank_sets(scores: Scores, n_test: int | None) -> dict[str, tuple[int, int]]:
    """Return the ranks of each variant that its comparisons do not exclude, 95 % for each row.

    Args:
        scores: Scores per variant in the order of the common bundles.
        n_test: Size of the test split, None for a metric that is not an accuracy.

    """
    names = list(scores)
    compared = {
        (a, b): paired(scores[a], scores[b], n_test, 0.0)
        for k, a in enumerate(names)
        for b in names[k + 1 :]
        if common(scores[a], scores[b]) >= 2
    }
    return ranks(names, compared)


def ranks(
    names: Sequence[Name], compared: Mapping[tuple[Name, Name], Paired]
) -> dict[Name, tuple[int, int]]:
    """Return the ranks of each row from the comparisons of all pairs, 95 % for each row.

    Holm's method holds over the K - 1 comparisons of a row. The lowest rank is 1 + the number of
    rows significantly above, the highest K - the number significantly below.

    Args:
        names: The rows.
        compared: Comparison of each pair, in one of its two orders; a pair without one excludes
            no rank.

    """
    leads: dict[Name, dict[Name, float]] = {name: {} for name in names}
    chances: dict[Name, dict[Name, float]] = {name: {} for name in names}
    for (a, b), pair in compared.items():
        leads[a][b], leads[b][a] = pair.mean, -pair.mean
        chances[a][b] = chances[b][a] = pair.p
    sets = {}
    for name in names:
        adjusted = holm(chances[name], len(names) - 1)
        apart = [leads[name][other] for other, p in adjusted.items() if p <= ALPHA]
        above = sum(lead < 0 for lead in apart)
        sets[name] = 1 + above, len(names) - (len(apart) - above)
    return sets
