"""Measurement of a table row by row: a failure of one row leaves the others."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import Any

from samtune.errors import SamtuneError


def tried(row: Mapping[str, Any], measure: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Return a row with its figures, or with why it has none (`missing`).

    An error that samtune does not explain is a failure of the benchmark: the row says `failed`,
    and the traceback is printed.
    """
    try:
        return {**row, **measure()}
    except SamtuneError as error:
        return {**row, "missing": str(error)}
    except Exception as error:
        traceback.print_exc()
        said = str(error).strip().splitlines() or [type(error).__name__]
        return {**row, "missing": said[0], "failed": True}
