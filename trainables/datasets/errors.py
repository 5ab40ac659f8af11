"""Errors of the data sets."""

from __future__ import annotations

from samtune.errors import SamtuneError


class DataError(SamtuneError):
    """A data set that is missing, damaged or wrongly laid out, or a refused opening of test."""

    exit_code = 5


class WordError(DataError):
    """A name or an option that no data set has, whatever is on the disk."""

    exit_code = 2
