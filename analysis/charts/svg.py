"""Text and elements of SVG: every name is made visible, escaped and bounded."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from html import escape

# Control, format (bidirectional marks among them), surrogate, private and unassigned characters.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})


def visible(text: object, limit: int = 80) -> str:
    """Return the text with hidden characters as escapes, cut to `limit` characters."""
    shown = "".join(
        f"\\u{ord(c):04x}" if unicodedata.category(c) in _HIDDEN else c for c in str(text)
    )
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def text(words: object, limit: int = 80) -> str:
    """Return the words as the content of an element or the value of an attribute."""
    return escape(visible(words, limit), quote=True)


def number(value: float) -> str:
    """Return a coordinate with a tenth of a unit."""
    return f"{value:.1f}".removesuffix(".0")


def element(tag: str, content: str = "", /, **attributes: object) -> str:
    """Return an element.

    Args:
        tag: Name of the element.
        content: Markup inside it; text has to come from `text`.
        **attributes: Attributes; `class_` is `class`, and `_` in a name is `-`. Numbers are
            coordinates; None leaves the attribute out. Only `d`, a path, may be long.

    """
    words = "".join(
        f' {"class" if name == "class_" else name.replace("_", "-")}="{_value(name, value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    return f"<{tag}{words}>{content}</{tag}>" if content else f"<{tag}{words}/>"


def path(points: Iterable[tuple[float, float]], *, closed: bool = False) -> str:
    """Return the path data of a line through points."""
    line = "L".join(f"{number(x)} {number(y)}" for x, y in points)
    return f"M{line}{'z' if closed else ''}"


def _value(name: str, value: object) -> str:
    if name == "d":
        return escape(str(value), quote=True)
    if isinstance(value, float):
        return number(value)
    return text(value, 1000) if isinstance(value, str) else str(value)
