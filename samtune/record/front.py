"""The Pareto front of a search: the trials that no other trial dominates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from samtune.record.rows import TrialRow
from samtune.space.aims import Aims

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def front(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which points no other point dominates.

    A point dominates another if it is at least as large in every column and larger in one. Equal
    points do not dominate each other.

    Args:
        points: A row per point and a column per aim, larger is better. A row with a NaN is
            neither on the front nor dominates.

    Returns:
        True for each point on the front.
    """
    import numpy as np

    found = np.zeros(len(points), dtype=bool)
    known = np.flatnonzero(~np.isnan(points).any(axis=1))
    # In this order no point is dominated by one after it.
    for k in known[np.lexsort(-points[known].T[::-1])]:
        others = points[found]
        dominating = (others >= points[k]).all(axis=1) & (others > points[k]).any(axis=1)
        found[k] = not dominating.any()
    return found


def standing(
    trials: Sequence[TrialRow], last: Mapping[int, Mapping[str, float]], aims: Aims
) -> dict[int, dict[str, bool | None]]:
    """Return `feasible` and `pareto` of each trial of a search, by its number in the record.

    Args:
        trials: The trials of one search.
        last: The metrics of each trial's last report.
        aims: The aims of the search.

    Returns:
        `feasible` is None without constraints or without a report, `pareto` without a second aim.
    """
    import numpy as np

    kept = {
        trial.trial: aims.keeps(last[trial.trial])
        if aims.limits and last.get(trial.trial)
        else None
        for trial in trials
    }
    signs = [1 if mode == "max" else -1 for mode in aims.metrics.values()]
    full = [t.trial for t in trials if t.state == "completed" and kept[t.trial] is not False]
    points = [aims.values(last.get(trial, {})) for trial in full]
    best: set[int] = set()
    if aims.several and full:
        best = {full[k] for k in np.flatnonzero(front(np.array(points) * signs))}
    return {
        trial.trial: {
            "feasible": kept[trial.trial],
            "pareto": trial.trial in best if aims.several else None,
        }
        for trial in trials
    }
