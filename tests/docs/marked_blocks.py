"""The blocks of code in a document, with what a mark before a block says of its test."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCED = re.compile(
    r"^(?:<!-- test: (?P<mark>[^\n]*) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_INDENTED = re.compile(r"^ {4,}(\S.*)$", re.MULTILINE)
_SPAN = re.compile(r"`(samtune [^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block. `mark` is what stands in `<!-- test: ... -->` on the line before it."""

    kind: str
    text: str
    mark: str


def blocks(document: Path) -> list[Block]:
    """Return the fenced blocks of a document."""
    found = _FENCED.finditer(document.read_text())
    return [Block(each["kind"], each["text"], each["mark"] or "") for each in found]


def indented(document: Path) -> list[str]:
    """Return the lines of indented code."""
    return _INDENTED.findall(_FENCED.sub("", document.read_text()))


def commands(document: Path) -> Iterator[tuple[bool, list[str]]]:
    """Yield each `samtune` command, as words, and whether it is whole or only named in a text."""
    text = document.read_text()
    lines = [
        line
        for block in blocks(document)
        if block.kind == "sh"
        for line in block.text.splitlines()
    ]
    for line in [*lines, *indented(document)]:
        yield from ((True, words) for words in _commands(line))
    for span in _SPAN.findall(_FENCED.sub("", text)):
        yield from ((False, words) for words in _commands(span))


def _commands(line: str) -> Iterator[list[str]]:
    for part in line.split("&&"):
        if part.strip().startswith("samtune "):
            words = shlex.split(re.split(r"\s[>|<]\s", part)[0], comments=True)
            yield words[1:]
