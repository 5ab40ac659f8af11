"""The power of a paired t test, and the seeds or the lead that it takes."""

from __future__ import annotations

import math

from scipy import optimize, special


def power(lead: float, sd: float, n: int, alpha: float) -> float:
    """Return the power of a two-sided paired t test.

    Args:
        lead: True mean difference.
        sd: Standard deviation of the differences.
        n: Number of common bundles.
        alpha: Level of the test; 0.05 divided by the number of comparisons on a board.

    """
    return _detection(lead, sd, n, alpha)


def seeds_needed(lead: float, sd: float, alpha: float, power: float = 0.8) -> float:
    """Return the least number of seeds, at least 3, whose test has this power.

    Args:
        lead: True mean difference; at 0 no number of seeds suffices, and the answer is infinite.
        sd: Standard deviation of the differences.
        alpha: Level of the test.
        power: Wanted probability of a decision.

    """
    if lead == 0:
        return math.inf
    low, high = 2, 3
    while _detection(lead, sd, high, alpha) < power:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (low, middle) if _detection(lead, sd, middle, alpha) >= power else (middle, high)
        )
    return float(high)


def detectable(sd: float, n: int, alpha: float, power: float = 0.8) -> float:
    """Return the least lead that a paired test on `n` bundles detects with this power."""
    if n < 2:
        return math.inf
    if sd == 0:
        return 0.0
    high = sd
    while _detection(high, sd, n, alpha) < power:
        high *= 2
    found = optimize.brentq(
        lambda lead: _detection(lead, sd, n, alpha) - power, 0.0, high, xtol=1e-13
    )
    return float(found)


def _detection(lead: float, sd: float, n: int, alpha: float) -> float:
    if n < 2:
        return 0.0
    if sd == 0:
        return float(lead != 0)
    noncentrality = abs(lead) / sd * math.sqrt(n)
    critical = special.stdtrit(n - 1, 1 - alpha / 2)
    missed = float(special.nctdtr(n - 1, noncentrality, critical))
    if math.isnan(missed):
        # Beyond the reach of scipy's noncentral t the normal approximation is close enough.
        missed = float(special.ndtr(critical - noncentrality))
    return 1 - missed
