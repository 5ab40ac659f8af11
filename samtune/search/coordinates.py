"""The values of a knob as numbers that a sampler can draw.

Values are distinguished by type and value, so Optuna draws the index of a listed value. Integers
stay exact up to 64 bits, because steps are counted in integers and in decimal arithmetic.
"""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from statistics import NormalDist

import optuna

from samtune.space.knobs import Choice, Domain, Fixed, Grid, Range, Value, same, step_size, steps

# TPE draws the number of a step. In float64 a range of more steps would lose the share of one
# step.
_MAX_STEPS = 2**45
# The standard deviations around a prior, as shares of the range on its scale.
_SPREADS = {"low": 1 / 3, "medium": 1 / 6, "high": 1 / 12}


def at_step(domain: Range, k: int) -> float:
    """Return the k-th value, counted from 0, of a range that has steps."""
    if domain.type == "int":
        return int(domain.low) + k * int(domain.step or 1)
    # 0.3 and not 0.30000000000000004, which would lie above a max of 0.3.
    return float(Decimal(str(domain.low)) + k * step_size(domain))


def place(domain: Domain, u: float) -> Value:
    """Return the value below which a share `u`, from 0 to below 1, of the domain lies."""
    if isinstance(domain, Fixed):
        return domain.value
    if isinstance(domain, Choice | Grid):
        return domain.values[int(u * len(domain.values))]
    if domain.prior is not None and domain.confidence is not None:
        u = _leaning(domain, domain.prior, _SPREADS[domain.confidence], u)
    count, width = steps(domain), float(step_size(domain))
    if domain.mean is not None and domain.sd is not None:
        # Each of the steps, if there are any, has its value in its middle.
        bell = NormalDist(domain.mean, domain.sd)
        below, above = bell.cdf(domain.low - width / 2), bell.cdf(domain.high + width / 2)
        share = below + u * (above - below)
        value = bell.inv_cdf(min(max(share, 1e-300), 1 - 1e-16)) + width / 2
    elif domain.scale == "log":
        value = domain.low * ((domain.high + width) / domain.low) ** u
    elif count is not None:
        return at_step(domain, int(Fraction(u) * count))
    else:
        value = domain.low + u * (domain.high - domain.low)
    if count is None:
        return min(max(value, domain.low), domain.high)
    return at_step(domain, min(max(int((value - domain.low) // width), 0), count - 1))


def _leaning(domain: Range, prior: float, spread: float, u: float) -> float:
    """Return the share of a range below which a share `u` of a bell around the prior lies."""
    low, high, middle = domain.low, domain.high, prior
    if domain.scale == "log":
        low, high, middle = math.log(low), math.log(high), math.log(prior)
    bell = NormalDist((middle - low) / (high - low) if high > low else 0.5, spread)
    below, above = bell.cdf(0), bell.cdf(1)
    share = bell.inv_cdf(min(max(below + u * (above - below), 1e-300), 1 - 1e-16))
    return min(max(share, 0.0), math.nextafter(1.0, 0.0))


def encoded(domain: Domain, value: Value) -> float | int:
    """Return the number that Optuna draws for a value of the domain."""
    if isinstance(domain, Choice | Grid):
        return next(k for k, listed in enumerate(domain.values) if same(value, listed))
    assert isinstance(domain, Range) and not isinstance(value, str)
    count = steps(domain)
    if count is None:
        return value
    first, stride = _numbering(domain, count)
    return first + round((Decimal(str(value)) - _low(domain)) / step_size(domain)) // stride


def suggested(trial: optuna.Trial, name: str, domain: Domain) -> Value:
    """Return the value that an Optuna trial suggests for a knob."""
    if isinstance(domain, Choice | Grid):
        index = trial.suggest_categorical(name, range(len(domain.values)))
        return domain.values[index]
    assert isinstance(domain, Range)
    count = steps(domain)
    if count is None:
        return trial.suggest_float(name, domain.low, domain.high, log=domain.scale == "log")
    first, stride = _numbering(domain, count)
    last = first + (count - 1) // stride
    number = trial.suggest_int(name, first, last, log=first > 0)
    # On a log scale above 2^53 Optuna's number may be rounded out of the range.
    return at_step(domain, min(max(number - first, 0) * stride, count - 1))


def _numbering(domain: Range, count: int) -> tuple[int, int]:
    """Return the number of the first step, and how many steps share a number.

    On a log scale the first number is the ratio of the first value to the step size, so that the
    numbers have the density of the values. It is 0 on a linear scale, and for a range so narrow
    that both scales are the same.
    """
    if domain.scale == "log" and domain.high / domain.low > 1 + 1e-6:
        return max(1, round(_low(domain) / step_size(domain))), 1
    return 0, (count - 1) // _MAX_STEPS + 1


def _low(domain: Range) -> Decimal:
    return Decimal(str(domain.low))
