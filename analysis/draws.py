"""Figures of all trials of a row, not of their winner alone: draws, radii and stops.

Trials that were drawn independently of each other, as by `random` and `sobol`, are a sample of the
space. It says how good a search of fewer trials is expected to be, and how wide the good part of
the space is. Both need the final value of each draw, so they are null where one was stopped early.
A diverged trial is the worst there is.
"""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path

import pandas as pd

from analysis import descriptive
from analysis.board import is_accuracy
from analysis.tables import ROW, column, read

_SIZES = (1, 4, 16, 64)
# Methods whose trials are drawn independently of what earlier trials reached.
_INDEPENDENT = frozenset({"random", "sobol"})
COLUMNS = (
    *(f"{name}_{end}" for name in ("diverged", "within_1pp") for end in ("share", "lo", "hi")),
    *(f"expected_best_{n}" for n in _SIZES),
    *("rho_star", "rho_lo", "rho_hi", "rho_plateau_decades"),
    *("rung_spearman", "wrong_stop_share", "wrong_stop_lo", "wrong_stop_hi"),
)


def columns(trials: pd.DataFrame, metric: str, sign: int) -> dict[str, float | None]:
    """Return the columns `COLUMNS` of a row; those that do not apply are None.

    Args:
        trials: Its trials in the search stage.
        metric: The metric of the search.
        sign: -1 for a metric that is minimised.

    """
    found: dict[str, float | None] = dict.fromkeys(COLUMNS)
    ended = trials[trials["state"].isin(["completed", "pruned", "diverged"])]
    if len(ended):
        diverged = int((ended["state"] == "diverged").sum())
        found |= _share("diverged", descriptive.wilson(diverged, len(ended)))
    drawn = _drawn(trials)
    if drawn is not None:
        values = _values(drawn, metric, sign)
        for n in _SIZES:
            best = _expected_best(values, n, metric) if n <= len(values) else None
            found[f"expected_best_{n}"] = None if best is None else sign * best
        if is_accuracy(metric) and any(map(math.isfinite, values)):
            found |= _share("within_1pp", descriptive.share_within(values))
            found |= _radii(drawn, values)
    return found | _stops(trials, metric, sign)


def by_row(folders: Iterable[Path]) -> dict[Hashable, list[float]]:
    """Return the scores of the draws of each row that has some, by the columns `ROW`."""
    found: dict[Hashable, list[float]] = {}
    for folder in dict.fromkeys(folders):
        for key, trials in read(folder, "trials").groupby(ROW, dropna=False):
            drawn = _drawn(trials)
            if drawn is not None:
                first = drawn.iloc[0]
                sign = 1 if first["mode"] == "max" else -1
                found[key] = _values(drawn, str(first["metric"]), sign)
    return found


def trials_to_reach(row: Sequence[float], baseline: Sequence[float], metric: str) -> int | None:
    """Return the least number of a row's draws expected to be as good as all of the baseline."""
    target = _expected_best(baseline, len(baseline), metric)
    if target is None:
        return None

    def reaches(n: int) -> bool:
        best = _expected_best(row, n, metric)
        return best is not None and best >= target

    if not reaches(len(row)):
        return None
    # The expected best grows with the number of trials.
    return 1 + bisect.bisect_left(range(1, len(row)), True, key=reaches)


def _expected_best(values: Sequence[float], n: int, metric: str) -> float | None:
    """Return the expected best of n draws; a diverged one has an accuracy of zero."""
    if is_accuracy(metric):
        values = [max(value, 0.0) for value in values]
    best = descriptive.expected_best(values, n)
    return best if math.isfinite(best) else None


def _drawn(trials: pd.DataFrame) -> pd.DataFrame | None:
    """Return the trials that are a sample of the space; None where there is no such sample."""
    ended = trials["state"].isin(["completed", "pruned", "diverged"])
    drawn = trials[ended & (trials["origin"] == "sampled")]
    independent = trials["search_alg"].isin(_INDEPENDENT).all()
    fair = independent and len(drawn) and not (drawn["state"] == "pruned").any()
    return drawn if fair else None


def _values(drawn: pd.DataFrame, metric: str, sign: int) -> list[float]:
    """Return the score of each draw, larger is better."""
    scores = (sign * column(drawn, metric)).where(drawn["state"] == "completed")
    return list(map(float, scores.fillna(-math.inf)))


def _radii(drawn: pd.DataFrame, values: Sequence[float]) -> dict[str, float | None]:
    """Return the plateau of the radius, where it was searched and is above zero."""
    searched = json.loads(drawn["knobs_searched"].iloc[0])
    rho = column(drawn, "knob.rho")
    if "rho" not in searched or not (rho > 0).all():
        return {}
    found = descriptive.plateau(rho.tolist(), values)
    return {
        "rho_star": found.star,
        "rho_lo": found.lo,
        "rho_hi": found.hi,
        "rho_plateau_decades": found.decades,
    }


def _stops(trials: pd.DataFrame, metric: str, sign: int) -> dict[str, float | None]:
    """Return what the audit says of the rungs: their order, and the stops that were wrong."""
    audited = trials.get("audited", pd.Series(False, index=trials.index)).eq(True)
    ended = trials["state"].isin(["completed", "diverged"])
    if not (audited & ended).any():
        return {}
    final = (sign * column(trials, metric)).where(trials["state"] == "completed", -math.inf)
    kept = final.where(ended & ~audited).groupby(trials["search"]).transform("max")
    ahead = (final - kept.fillna(-math.inf))[audited & ended]
    whole = ended & final.gt(-math.inf) & column(trials, "first_rung_value").notna()
    spearman = descriptive.rung_fidelity(
        (sign * column(trials, "first_rung_value"))[whole].tolist(), final[whole].tolist()
    )
    stops = descriptive.wrong_stops(ahead.tolist(), 0.0)
    return {"rung_spearman": spearman} | _share("wrong_stop", stops)


def _share(name: str, found: descriptive.Share) -> dict[str, float | None]:
    return {f"{name}_{end}": getattr(found, end) for end in ("share", "lo", "hi")}
