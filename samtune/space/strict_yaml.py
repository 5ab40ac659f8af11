"""A parser of strict YAML 1.2 (core schema) that keeps the place of every value.

PyYAML does the parsing. Its YAML 1.1 rules (`on` is true, `1e-3` is text, a second key overwrites
the first) are replaced. Tags, anchors, directives and explicit keys (`?`) are refused.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

import yaml

from samtune.errors import SamtuneError
from samtune.messages import quoted
from samtune.space.yaml_grammar import sentence, unused_forms

MAX_BYTES = 1 << 20
MAX_LINES = 20_000

Scalar = float | int | str | bool


@dataclass(frozen=True, order=True)
class Mark:
    """A place in a text: line and column, from 1; 0 if the source has no lines."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True)
class Node:
    """A value, the place where it begins, and the place of the word before it (`key`)."""

    value: Scalar | list[Node] | dict[str, Node] | None
    mark: Mark
    key: Mark

    def plain(self) -> Any:
        """Return the value as dicts, lists and scalars, without places."""
        if isinstance(self.value, dict):
            return {word: node.plain() for word, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def at(self, *words: str) -> Node:
        """Return the node at a path, or the nearest one above it."""
        node = self
        for word in words:
            if isinstance(node.value, dict) and word in node.value:
                node = node.value[word]
            else:
                break
        return node


Problem = tuple[Mark, str]


class StrictYamlError(SamtuneError):
    """Mistakes in a YAML text; `problems` has each with its place."""

    exit_code = 2

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__([f"{mark}: {message}" for mark, message in problems])
        self.problems = problems


def load(data: bytes, source: str) -> Node:
    """Return the one document in `data`, or a Node that holds None if there is none.

    Raises:
        StrictYamlError: For a syntax error or unused forms; else for all duplicate words and
            all values that no space can hold.
    """
    text = _decoded(data, source)
    try:
        found = list(unused_forms(text))
        tree = None if found else yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        found = [(mark.line, mark.column, sentence(error)) if mark else (0, 0, sentence(error))]
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # PyYAML passes on what chr() says about an escape such as "\UFFFFFFFF".
        raise StrictYamlError([(Mark(source), f"not valid YAML: {error}")]) from None
    if found:
        problems = [(Mark(source, line + 1, column + 1), why) for line, column, why in found]
        raise StrictYamlError(sorted(set(problems)))
    if tree is None:
        return Node(None, Mark(source, 1, 1), Mark(source, 1, 1))
    builder = _Builder(source)
    root = builder.node(tree)
    if builder.problems:
        raise StrictYamlError(sorted(builder.problems))
    return root


def scalar(text: str) -> Scalar | None:
    """Return the value of an unquoted word in YAML 1.2's core schema; infinities are floats."""
    if text in {"", "~", "null", "Null", "NULL"}:
        return None
    if text in {"true", "True", "TRUE", "false", "False", "FALSE"}:
        return text[0] in "tT"
    if re.fullmatch(r"[-+]?[0-9]{1,400}", text):
        return int(text)
    if re.fullmatch(r"0x[0-9a-fA-F]{1,400}|0o[0-7]{1,400}", text):
        return int(text, 0)
    if re.fullmatch(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", text):
        return float(text)
    if re.fullmatch(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", text):
        return float(text.replace(".", "", 1))
    return text


def _decoded(data: bytes, source: str) -> str:
    if len(data) > MAX_BYTES:
        raise StrictYamlError([(Mark(source), "larger than 1 MiB, which no space file is")])
    for mark, what in {
        b"\xef\xbb\xbf": "begins with a byte-order mark (BOM)",
        b"\xff\xfe": "is UTF-16",
        b"\xfe\xff": "is UTF-16",
    }.items():
        if data.startswith(mark):
            message = f"{what}; save the file as UTF-8 without BOM"
            raise StrictYamlError([(Mark(source, 1, 1), message)])
    try:
        text, wrong = data.decode("utf-8"), None
    except UnicodeDecodeError as error:
        text = data[: error.start].decode("utf-8")
        wrong = (len(text), f"byte 0x{data[error.start]:02x} is not UTF-8")
    if text.count("\n") + text.count("\r") > 2 * MAX_LINES:
        raise StrictYamlError([(Mark(source), f"more than {MAX_LINES} lines")])
    # U+0085, U+2028 and U+2029 end a line in YAML 1.1 and are text in 1.2.
    control = r"[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
    if stray := re.search(control, text):
        wrong = (stray.start(), f"control character {quoted(stray.group())}")
    if wrong:
        at, message = wrong
        before = re.split(r"\r\n?|\n", text[:at])
        place = Mark(source, len(before), len(before[-1]) + 1)
        raise StrictYamlError([(place, f"{message}; is this a text file?")])
    return text


class _Builder:
    """A converter of PyYAML's nodes into ours; `problems` collects the mistakes in them."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.problems: list[Problem] = []

    def node(self, node: yaml.Node, key: Mark | None = None) -> Node:
        mark = Mark(self.source, node.start_mark.line + 1, node.start_mark.column + 1)
        value: Scalar | list[Node] | dict[str, Node] | None
        if isinstance(node, yaml.ScalarNode):
            value = self.scalar(node, mark)
        elif isinstance(node, yaml.MappingNode):
            value = self.mapping(node)
        else:
            value = [self.node(item) for item in node.value]
        return Node(value, mark, key or mark)

    def mapping(self, node: yaml.MappingNode) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        for word, value in node.value:
            mark = self.node(word).mark
            entry = self.node(value, mark)
            if not isinstance(word, yaml.ScalarNode) or (word.value == "" and not word.style):
                self.problems.append((mark, "a word must stand before ':', not a map or list"))
            elif word.value in entries:
                first = entries[word.value].key.line
                message = f"{quoted(word.value)} is given twice; the first is in line {first}"
                self.problems.append((mark, message))
            else:
                entries[word.value] = entry
        return entries

    def scalar(self, node: yaml.ScalarNode, mark: Mark) -> Scalar | None:
        value: Scalar | None = node.value if node.style else scalar(node.value)
        if isinstance(value, str) and not value.isprintable():
            stray = next(char for char in value if not char.isprintable())
            self.problems.append((mark, f"{quoted(value)} holds {_character(stray)}"))
        elif isinstance(value, float) and not math.isfinite(value):
            self.problems.append((mark, f"{quoted(node.value)} is not a finite number"))
        elif isinstance(value, int) and abs(value) >= 1 << 63:
            self.problems.append((mark, "a whole number must be below 2^63; write it as 1e20"))
        return value


def _character(char: str) -> str:
    """Return the name of a character that a value must not contain."""
    known = {"\n": "a newline", "\r": "a carriage return", "\t": "a tab"}
    if char in known:
        return f"{known[char]}; a value is one line, without tabs"
    name = unicodedata.name(char, f"U+{ord(char):04X}").lower()
    return f"a character that cannot be printed ({name})"
