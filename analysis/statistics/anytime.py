"""Evidence that is valid whenever one looks at it, for seeds that were added outside a plan."""

from __future__ import annotations

import math


def e_value(t: float, n: int) -> float:
    """Return the e-value of a paired t statistic, valid at any n chosen in any way.

    With m comparisons, r of them rejected so far, reject where it is at least (m - r) / 0.05.

    Args:
        t: Student's t statistic of the n paired differences.
        n: Number of common bundles, at least 2.

    """
    if n < 2:
        return 1.0
    square = t * t / (n - 1)
    if math.isinf(square):
        return math.inf
    log = -math.log1p(n) / 2 + n / 2 * (math.log1p(square) - math.log1p(square / (1 + n)))
    return math.exp(log) if log < 700 else math.inf


def e_reach(n: int, alpha: float) -> float:
    """Return the t statistic whose e-value is 1 / alpha, infinite where no statistic reaches it.

    The interval of `mean +- e_reach(n, alpha) * se` covers the true mean at any n chosen in any
    way, with probability 1 - alpha. It is wider than Student's.

    Args:
        n: Number of common bundles.
        alpha: Level of the interval.

    """
    if n < 2:
        return math.inf
    q = math.exp(2 / n * (math.log1p(n) / 2 - math.log(alpha)))
    left = 1 - q / (1 + n)
    return math.sqrt((n - 1) * (q - 1) / left) if left > 0 else math.inf
