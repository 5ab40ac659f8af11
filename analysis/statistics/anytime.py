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
