"""Rows of a table that are measured one by one: a failure of one leaves the others."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import Any

from samtune.errors import SamtuneError


def tried(row: Mapping[str, Any], measure: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Return a row with its figures, or with why it has none (`missing`).

    What no sentence of samtune explains is a failure of the benchmark (`failed`), whose traceback
    is printed.
    """
    try:
        return {**row, **measure()}
    except SamtuneError as error:
        return {**row, "missing": str(error)}
    except Exception as error:
        traceback.print_exc()
        said = str(error).strip().splitlines() or [type(error).__name__]
        return {**row, "missing": said[0], "failed": True}
