"""Pieces of Markdown for the pages that are made from the code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def heading(text: str, level: int = 2) -> str:
    """Return a heading."""
    return f"{'#' * level} {text}\n"


def cell(text: str) -> str:
    """Return text that stands in one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table without the columns that are empty in every row."""
    cells = [list(row) for row in rows]
    used = [i for i in range(len(heads)) if any(row[i] for row in cells)]
    lines = [[heads[i] for i in used], ["---"] * len(used)]
    lines += [[row[i] for i in used] for row in cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
