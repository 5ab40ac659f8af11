"""Conversion of a trainable's reports into plain values, with errors for all other values."""

from __future__ import annotations

import base64
import math
import os
from typing import Any

from samtune.errors import SamtuneError
from samtune.messages import quoted

Value = float | int | str | bool

# The tables hold epochs in 32 bits and other integers in 64 bits.
_LAST_EPOCH = 2**31 - 1
_LAST_INTEGER = 2**63 - 1
_LONGEST_NAME = 100
# Metrics and facts whose columns in the tables have a type: counts with their largest value.
_COUNTS = {
    **dict.fromkeys(("step", "forward_samples", "backward_samples", "skipped_steps"), 2**63 - 1),
    **dict.fromkeys(("n_test", "test_correct", "n_train", "n_val"), 2**31 - 1),
    **{"n_params": 2**63 - 1, "threads": 2**15 - 1, "workers": 2**15 - 1},
}
_FLAGS = {"deterministic", "compiled", "channels_last"}
_TEXTS = {"device", "precision", "data_sha256", "torch_version", "test_bits", "test_split"}


class ReportError(SamtuneError):
    """A report that cannot be recorded. It ends its own trial, and that trial is not retried."""


def epoch_number(value: Any) -> int:
    """Return an epoch as an int.

    Raises:
        ReportError: If `value` is not a whole number from 0 to 2**31 - 1.
    """
    number = _scalar("epoch", value)
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int):
        raise ReportError(f"epoch is {quoted(number)}; report a whole number, such as epoch=1")
    if not 0 <= number <= _LAST_EPOCH:
        raise ReportError(f"epoch is {_shown(number)}; it must be from 0 to {_LAST_EPOCH}")
    return int(number)


def metric(name: str, value: Any) -> float:
    """Return a metric as a Python number; NaN and infinity are numbers.

    Raises:
        ReportError: If `value` is not one real number, or is an integer of more than 64 bits.
    """
    _check_name("metric", name)
    number = _scalar(name, value)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ReportError(f"{name} is {quoted(number)}, not a number")
    if isinstance(number, int):
        number = _integer(name, int(number))
    if name in _COUNTS:
        return _count(name, number, _COUNTS[name])
    return number if isinstance(number, int) else float(number)


def fact(name: Any, value: Any) -> Value:
    """Return a fact about a trial as a Python value.

    Raises:
        ReportError: If `value` is not a number, a text, True or False, if it is NaN or infinite,
            or if `name` has a column of another type in the tables.
    """
    _check_name("fact", name)
    field = f"facts[{name!r}]"
    plain: Any = _scalar(field, value)
    if isinstance(plain, os.PathLike):
        plain = os.fspath(plain)
    if isinstance(plain, str):
        plain = _text(field, plain)
    elif isinstance(plain, float):
        plain = float(plain)
        if not math.isfinite(plain):
            raise ReportError(f"{field} is {plain}; leave out what is not known")
    elif isinstance(plain, int) and not isinstance(plain, bool):
        plain = _integer(field, int(plain))
    elif not isinstance(plain, bool):
        kind = type(plain).__name__
        raise ReportError(f"{field} is a {kind}; report a number, a text, True or False")
    if name in _COUNTS:
        return _count(field, plain, _COUNTS[name])
    if name in _FLAGS and not isinstance(plain, bool):
        raise ReportError(f"{field} is {quoted(plain)}; it must be True or False")
    if name in _TEXTS and not isinstance(plain, str):
        raise ReportError(f"{field} is {quoted(plain)}; it must be a text")
    if name == "test_bits" and bits(plain) is None:
        raise ReportError(
            f"{field} is {quoted(plain)}; it must be "
            "base64.b64encode(np.packbits(correct)).decode()"
        )
    known: Value = plain
    return known


def bits(text: Any) -> bytes | None:
    """Return the bytes of a text in base64, None for anything else."""
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError):
        return None


def text(field: str, value: Any) -> str | None:
    """Return a path or another text as a str, None as None.

    Raises:
        ReportError: If `value` is something else.
    """
    if value is None:
        return None
    plain = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(plain, str):
        raise ReportError(f"{field} is {quoted(value)}; report a text, or a path")
    return _text(field, plain)


def _scalar(field: str, value: Any) -> Any:
    """Return the value of a 0-dim tensor, array or NumPy scalar, anything else unchanged."""
    if not hasattr(value, "item"):
        return value
    try:
        return value.item()
    except Exception:
        kind = type(value).__name__
        raise ReportError(f"{field} is a {kind} that is not a single number") from None


def _integer(field: str, value: int) -> int:
    if abs(value) > _LAST_INTEGER:
        raise ReportError(f"{field} is {_shown(value)}; report it as a float")
    return value


def _count(field: str, value: Value, largest: int) -> int:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and 0 <= float(value) <= largest and float(value).is_integer():
        return int(value)
    raise ReportError(f"{field} is {quoted(value)}; it must be a whole number from 0 to {largest}")


def _text(field: str, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ReportError(f"{field} is {quoted(value)}, which is not valid Unicode") from None
    return str(value)


def _check_name(what: str, name: Any) -> None:
    if not isinstance(name, str):
        raise ReportError(f"{quoted(name)} is the name of a {what}; names are texts")
    if not name or not name.isprintable() or len(name) > _LONGEST_NAME:
        raise ReportError(
            f"{quoted(name)} is the name of a {what}; "
            f"use 1 to {_LONGEST_NAME} printable characters"
        )


def _shown(value: int) -> str:
    """Return the integer as text, or only its size if it is long: Python refuses to print some."""
    bits = value.bit_length()
    return str(value) if bits <= 64 else f"an integer of {bits} bits"
