"""Trainables that no other process can import: of a notebook, of a script, or made in a function.

Such a function is stored here under a reference, so that `resolve` finds it like any other.
Workers receive the function itself, and store it under the same reference.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

_MAIN = "__main__"
_kept: dict[str, Callable[..., Any]] = {}


def keep(reference: str, function: Callable[..., Any]) -> None:
    """Make `reference` resolve to `function` in this process."""
    _kept[reference] = function


def kept(reference: str) -> Callable[..., Any] | None:
    """Return the function that is kept under a reference; None if there is none."""
    return _kept.get(reference)


def is_by_value(reference: str) -> bool:
    """Return whether workers cannot import the function, so that it must be sent to them."""
    return reference in _kept or reference.startswith(f"{_MAIN}:")


def reference_to(function: Callable[..., Any]) -> str:
    """Return a reference that resolves to `function`; it is kept here if it cannot be imported."""
    home = getattr(function, "__module__", None) or type(function).__module__
    if home != _MAIN:
        for name, value in vars(sys.modules.get(home, object())).items():
            if value is function:
                return f"{home}:{name}"
    name = getattr(function, "__name__", type(function).__name__)
    reference = f"{_MAIN}:{re.sub(r'[^A-Za-z0-9_]', '', name) or 'trainable'}"
    keep(reference, function)
    return reference
