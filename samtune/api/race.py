"""The race of a study: a row that cannot be among the best is not searched again.

After each search the rows of a question are compared by their winners' select runs, on validation
and on common seeds. A row is left out of the later searches if none of its plausible ranks is
among the best `study.keep`. The test split is not used. `python -m benchmarks.race` measures how
much a race saves, and how often it loses the best row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from analysis import statistics
from samtune.record.ranking import select_values, winners
from samtune.record.reader import Reader
from samtune.record.record import Record
from samtune.record.rows import StudyRow
from samtune.space.search_space import SearchSpace


def active(record: Record, spaces: Sequence[SearchSpace], search: int) -> set[int]:
    """Return the members of a search that take part, and record which ones the race leaves out.

    Args:
        record: The run's record.
        spaces: The run's spaces, one per study of the record.
        search: The number of the search; the ones before it have ended.
    """
    raced: dict[str, str] = record.meta("raced") or {}
    studies = record.studies()
    for question in _questions(spaces):
        if not any(spaces[k].member.search == search and str(k) not in raced for k in question):
            continue
        before = [k for k in question if spaces[k].member.search < search]
        beaten = left_out(
            scores(record, [studies[k] for k in before], spaces),
            spaces[question[0]].member.keep,
        )
        for k in question:
            row = spaces[k].row
            if spaces[k].member.search >= search and row in beaten and str(k) not in raced:
                raced[str(k)] = row
                record.add_event("left out by the race", spaces[k].name)
    record.set_meta("raced", raced)
    return {
        k
        for k, space in enumerate(spaces)
        if space.member.search == search and str(k) not in raced
    }


def left_out(
    scores: Mapping[str, Sequence[float]], keep: int, n_val: int | None = None
) -> set[str]:
    """Return the rows without a plausible rank among the best `keep`.

    Args:
        scores: The scores of each row, higher is better, in the order of common seeds.
        keep: How many rows stay at least.
        n_val: The number of validation samples of an accuracy, for the floor of its rounding.
    """
    counts = {len(values) for values in scores.values()}
    if len(scores) <= keep or counts & {0, 1}:
        return set()
    ranks = statistics.rank_sets(scores, n_val)
    return {row for row, (low, _) in ranks.items() if low > keep}


def _questions(spaces: Sequence[SearchSpace]) -> list[list[int]]:
    """Return the members of each task and budget."""
    found: dict[tuple[str, float], list[int]] = {}
    for k, space in enumerate(spaces):
        found.setdefault((space.member.task, space.budget.per_trial), []).append(k)
    return list(found.values())


def scores(
    record: Reader, studies: Iterable[StudyRow], spaces: Sequence[SearchSpace]
) -> dict[str, list[float]]:
    """Return the select values of each row's winners, of the rows that have all of them."""
    found: dict[str, dict[int, float]] = {}
    for study in studies:
        sign = 1.0 if study.settings["mode"] == "max" else -1.0
        own = found.setdefault(spaces[study.study].row, {})
        for winner, _ in winners(record, study, most=1):
            values = select_values(record, winner)
            own |= {bundle: sign * value for bundle, value in values.items()}
    bundles = set().union(*found.values()) if found else set()
    return {
        row: [values[bundle] for bundle in sorted(bundles)]
        for row, values in found.items()
        if values.keys() == bundles
    }
