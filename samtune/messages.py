"""Values and names as messages show them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

SEE = "see = SGD-epoch equivalents: an SGD epoch costs 1, a SAM epoch 2"
"""The unit of compute, for the first place of an output that has it."""


def nearest(word: object, known: Iterable[object], label: str = "known") -> str:
    """Return `did you mean 'x'?`, or all known words if none is similar."""
    known = list(known)
    names = [str(name) for name in known]
    # A number with similar digits is not what the user meant, so numbers are not suggested.
    words = names if all(isinstance(name, str) for name in known) else []
    near = difflib.get_close_matches(str(word), words, 1, 0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"{label}: {', '.join(names) or 'none'}"


def quoted(value: object) -> str:
    """Return a value in quotes, with special characters escaped, cut at 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def printable(text: str) -> str:
    """Return `text` with the characters escaped that would control a terminal."""
    kept = (
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )
    return "".join(kept)


def unit(kind: str) -> str:
    """Return the unit of a kind of budget."""
    return {"compute": "see", "epochs": "epochs", "seconds": "s"}[kind]


def knob_list(knobs: Mapping[str, object], most: int | None = 160) -> str:
    """Return `lr=0.05 rho=0.5`, cut after about `most` characters: `lr=0.05 ... (299 more)`."""
    words = [
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in knobs.items()
    ]
    if most is None:
        return " ".join(words)
    words = [word if len(word) <= most else f"{word[: most - 3]}..." for word in words]
    shown, length = 0, 0
    while shown < len(words) and length + len(words[shown]) <= most:
        length += len(words[shown]) + 1
        shown += 1
    rest = len(words) - shown
    return " ".join([*words[:shown], *([f"... ({rest} more)"] if rest else [])])


def clock(seconds: float) -> str:
    """Return a time as `2:05`, or as `1:02:05` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
