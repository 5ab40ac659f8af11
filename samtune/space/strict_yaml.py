"""Strict YAML 1.2 (core schema) in which every value knows where it stands.

Built on PyYAML's parser, whose YAML 1.1 readings (`on` is true, `1e-3` is text, a second key
overwrites the first) are replaced, and whose tags, anchors and directives are refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from samtune.errors import SamtuneError
from samtune.messages import quoted

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_NODES = 10_000
MAX_LINES = 20_000

Scalar = float | int | str | bool


@dataclass(frozen=True, order=True)
class Mark:
    """A place in a text: line and column count from 1; 0 where the source has no lines."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True)
class Node:
    """A value, where it begins (`mark`), and where the word that leads to it stands (`key`)."""

    value: Scalar | list[Node] | dict[str, Node] | None
    mark: Mark
    key: Mark

    def plain(self) -> Any:
        """The value as dicts, lists and scalars, without positions."""
        if isinstance(self.value, dict):
            return {word: node.plain() for word, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def at(self, *words: str) -> Node:
        """The node at a path, or the nearest one above it."""
        node = self
        for word in words:
            if isinstance(node.value, dict) and word in node.value:
                node = node.value[word]
            else:
                break
        return node


Problem = tuple[Mark, str]


class StrictYamlError(SamtuneError):
    """Mistakes in a YAML text; `problems` holds each with its place."""

    exit_code = 2

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__([f"{mark}: {message}" for mark, message in problems])
        self.problems = problems


def load(data: bytes, source: str) -> Node:
    """The one document in `data`; a Node holding None if there is none.

    Raises StrictYamlError naming `source` with line and column: after a syntax error the one
    message, otherwise all (duplicate words, tags, anchors, numbers that are not finite).
    """
    composer = _Composer(source)
    try:
        root = composer.document(_decoded(data, source))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise StrictYamlError([(composer.place(mark), _sentence(error))]) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # PyYAML passes on what chr() says about an escape such as "\UFFFFFFFF".
        raise StrictYamlError([(Mark(source), f"not valid YAML: {error}")]) from None
    if composer.problems:
        raise StrictYamlError(sorted(composer.problems))
    return root


def scalar(text: str) -> Scalar | None:
    """What an unquoted word means in YAML 1.2's core schema; infinities stay as floats."""
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
    start = Mark(source, 1, 1)
    if len(data) > MAX_BYTES:
        raise StrictYamlError([(Mark(source), "larger than 1 MiB, which no space file is")])
    if data.startswith(b"\xef\xbb\xbf"):
        message = "begins with a byte-order mark (BOM); save the file as UTF-8 without BOM"
        raise StrictYamlError([(start, message)])
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise StrictYamlError([(start, "is UTF-16; save the file as UTF-8 without BOM")])
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        message = f"byte 0x{data[error.start]:02x} is not UTF-8; is this a text file?"
        raise StrictYamlError([(_end_of(before, source), message)]) from None
    if text.count("\n") + text.count("\r") > 2 * MAX_LINES:
        raise StrictYamlError([(Mark(source), f"more than {MAX_LINES} lines")])
    stray = re.search(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", text)
    if stray:
        message = f"control character {quoted(stray.group())}; is this a text file?"
        raise StrictYamlError([(_end_of(text[: stray.start()], source), message)])
    return text


def _end_of(text: str, source: str) -> Mark:
    lines = text.splitlines() or [""]
    if text.endswith(("\n", "\r")):
        lines.append("")
    return Mark(source, len(lines), len(lines[-1]) + 1)


class _Composer:
    def __init__(self, source: str) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self.nodes = 0
        self.events: Iterator[Any] = iter(())

    def place(self, mark: Any) -> Mark:
        return Mark(self.source, mark.line + 1, mark.column + 1) if mark else Mark(self.source)

    def document(self, text: str) -> Node:
        start = Mark(self.source, 1, 1)
        root: Node | None = None
        self.events = iter(yaml.parse(text, Loader=yaml.SafeLoader))
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                here = self.place(event.start_mark)
                if root is not None:
                    message = "a second document begins here; a space file holds one"
                    raise StrictYamlError([(here, message)])
                if event.version or event.tags:
                    self.problems.append((here, "directives (%YAML, %TAG) are not used here"))
                root = self.node(next(self.events), start, 0)
        return root or Node(None, start, start)

    def node(self, event: Any, key: Mark | None, depth: int) -> Node:
        mark = self.place(event.start_mark)
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise StrictYamlError(
                [(mark, f"more than {MAX_NODES} values, which no space file has")]
            )
        if depth > MAX_DEPTH:
            raise StrictYamlError([(mark, f"nested deeper than {MAX_DEPTH} levels")])
        if event.anchor is not None:
            sign = "*" if isinstance(event, yaml.AliasEvent) else "&"
            message = (
                f"anchors and aliases ({sign}{event.anchor[:40]}) are not used here; "
                "write the value out, or share it by `extends`"
            )
            self.problems.append((mark, message))
        if isinstance(event, yaml.AliasEvent):
            return Node(None, mark, key or mark)
        if event.tag is not None:
            message = f"tags ({event.tag[:40]}) are not used here; write the value alone"
            self.problems.append((mark, message))
        if isinstance(event, yaml.ScalarEvent):
            return Node(self.scalar(event, mark), mark, key or mark)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Node] = []
            while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
                items.append(self.node(event, None, depth + 1))
            return Node(items, mark, key or mark)
        return Node(self.mapping(depth), mark, key or mark)

    def mapping(self, depth: int) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.node(event, None, depth + 1)
            entry = self.node(next(self.events), key.mark, depth + 1)
            if not isinstance(event, yaml.ScalarEvent):
                self.problems.append((key.mark, "a word must stand before ':', not a map or list"))
            elif event.value in entries:
                first = entries[event.value].key.line
                message = f"{quoted(event.value)} is given twice; the first is in line {first}"
                self.problems.append((key.mark, message))
            else:
                entries[event.value] = entry
        return entries

    def scalar(self, event: Any, mark: Mark) -> Scalar | None:
        value = scalar(event.value) if event.style is None else event.value
        if isinstance(value, str):
            if not value.isprintable():
                self.problems.append(
                    (mark, f"{quoted(value)} holds a character that cannot be printed")
                )
        elif isinstance(value, float) and not math.isfinite(value):
            self.problems.append((mark, f"{quoted(event.value)} is not a finite number"))
        elif isinstance(value, int) and abs(value) >= 1 << 63:
            self.problems.append((mark, "a whole number must be below 2^63; write it as 1e20"))
        return value


def dump(resolved: Mapping[str, Any]) -> str:
    """YAML 1.2 that `load` reads back to the same values and types, in the same order."""
    lines: list[str] = []
    for word, value in resolved.items():
        if isinstance(value, dict) and value:
            lines.append(f"{word}:")
            lines += [f"  {name}: {_flow(below)}" for name, below in value.items()]
        elif word == "points":
            lines.append(f"{word}:")
            lines += [f"  - {_flow(point)}" for point in value]
        else:
            lines.append(f"{word}: {_flow(value)}")
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{word}: {_flow(below)}" for word, below in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str):
        plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_./-]*(:[A-Za-z0-9_]+)?", value)
        if plain and isinstance(scalar(value), str):
            return value
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


def _sentence(error: yaml.MarkedYAMLError) -> str:
    problem = str(error.problem)
    opened = f"line {error.context_mark.line + 1}" if error.context_mark else "the line above"
    if "'\\t'" in problem:
        return "a tab; YAML is indented and spaced with spaces"
    if "expected <block end>" in problem and error.context_mark and error.problem_mark:
        if error.problem_mark.column != error.context_mark.column:
            return (
                f"wrong indentation: this begins in column {error.problem_mark.column + 1}, where "
                "no map above has its entries; line it up with those it belongs to"
            )
        return f"this does not go on with what began in {opened}; expected `word: value`"
    if "mapping values are not allowed" in problem:
        return (
            "a ':' inside a value; is this line indented too far, or is a space missing "
            "after the ':' above? (text with ': ' in it needs quotes)"
        )
    for part, sentence in {
        "could not find expected ':'": (
            f"expected `word: value` in {opened}; is a space missing after ':'?"
        ),
        "expected ',' or '}'": f"',' or '}}' is missing in the map opened in {opened}",
        "expected ',' or ']'": f"',' or ']' is missing in the list opened in {opened}",
        "unexpected end of stream": f"the quote opened in {opened} is never closed",
        "sequence entries are not allowed": "a '-' cannot stand here; check the indentation",
        "cannot start any token": "text that begins with this character needs quotes",
        "<document start>": "this does not belong to what stands above; check the indentation",
        "expected the node content": "a value is missing here",
        "undefined tag handle": "tags (!...) are not used here; write the value alone",
    }.items():
        if part in problem:
            return sentence
    return f"not valid YAML: {problem}"
