"""Elements, tables and data of a page. All text that is not samtune's goes through `text`."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from analysis.charts.svg import element, text

Row = tuple[Sequence[str], Mapping[str, object]]
"""The markup of a row's cells, and its attributes."""

_VOID = frozenset({"input", "meta", "br"})


def tag(kind: str, content: str = "", /, **attributes: object) -> str:
    """Return an element of HTML; attributes as of `analysis.charts.svg.element`."""
    made = element(kind, content, **attributes)
    if content or kind in _VOID:
        return made
    return f"{made.removesuffix('/>')}></{kind}>"


def name(words: object, limit: int = 60) -> str:
    """Return a name that a user chose, apart from the direction of the text around it."""
    return tag("bdi", text(words, limit), title=str(words) if len(str(words)) > limit else None)


def table(
    caption: str,
    headings: Sequence[str],
    rows: Iterable[Row],
    plain: Sequence[int] = (),
    sorts: bool = True,
) -> str:
    """Return a table in a region that scrolls; its headings sort where there is a script.

    Args:
        caption: What the table holds, for screen readers.
        headings: Markup of the headings; the first column names the row.
        rows: Markup of the cells of each row, and the attributes of the row.
        plain: Columns of words, which are set from the left.
        sorts: Whether the headings are buttons that sort.

    """
    head = "".join(
        tag(
            "th",
            tag("button", words, type="button") if sorts else words,
            scope="col",
            class_="words" if k in plain else None,
        )
        for k, words in enumerate(headings)
    )
    body = []
    for cells, attributes in rows:
        parts = [
            tag("th", cell, scope="row")
            if k == 0
            else tag("td", cell, class_="words" if k in plain else None)
            for k, cell in enumerate(cells)
        ]
        body.append(tag("tr", "".join(parts), **attributes))
    whole = (
        tag("caption", text(caption, 120), class_="unseen")
        + tag("thead", tag("tr", head))
        + tag("tbody", "".join(body))
    )
    return tag(
        "div", tag("table", whole), class_="wide", role="region", tabindex=0, aria_label=caption
    )


def data(values: Any) -> str:
    """Return values as JSON that no script element ends in."""
    found = json.dumps(values, separators=(",", ":"), ensure_ascii=True)
    return found.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def fingerprint(source: str) -> str:
    """Return the source's hash as a content security policy names it."""
    digest = hashlib.sha256(source.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
