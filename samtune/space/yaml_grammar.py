"""The subset of YAML for space files, on which YAML 1.1 (PyYAML's grammar) and YAML 1.2 agree.

The check reads PyYAML's tokens before values are built from them. It refuses forms that space
files do not need (tags, anchors, directives, explicit keys, block text), and forms that only YAML
1.1 accepts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

MAX_DEPTH = 32
MAX_NODES = 10_000

_FLOW_STARTS = (yaml.FlowSequenceStartToken, yaml.FlowMappingStartToken)
_FLOW_ENDS = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken)
_BLOCK_STARTS = (yaml.BlockSequenceStartToken, yaml.BlockMappingStartToken)
_NEEDS_QUOTES = "text that begins with this character needs quotes"


class LimitError(yaml.MarkedYAMLError):
    """A text with too many values or levels."""


def unused_forms(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield the line and the column, from 0, and a sentence for each form that is refused.

    Raises:
        yaml.MarkedYAMLError: If PyYAML cannot split the text into tokens, or for a LimitError.
    """
    lines = re.split(r"\r\n?|\n", text)
    blocks = [-1]  # The columns of the open block maps and lists.
    flow = nodes = 0  # The depth of brackets, and the number of values.
    checked = -1  # The last line whose indentation is known to be right.
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        start, end = token.start_mark, token.end_mark
        opens = isinstance(token, (*_FLOW_STARTS, *_BLOCK_STARTS))
        nodes += opens or isinstance(token, yaml.ScalarToken)
        if opens and flow + len(blocks) - 1 > MAX_DEPTH:
            raise LimitError(None, None, f"nested deeper than {MAX_DEPTH} levels", start)
        if nodes > MAX_NODES:
            message = f"more than {MAX_NODES} values, which no space file has"
            raise LimitError(None, None, message, start)
        if unused := _unused(token, text, flow):
            yield start.line, start.column, unused
        elif start.index < end.index and text.startswith("#", end.index):
            yield end.line, end.column, "write a space before a '#' that begins a comment"
        if not flow:
            checked = start.line
        if flow or (isinstance(token, yaml.ScalarToken) and token.style in {"'", '"'}):
            for line in range(max(start.line, checked + 1), end.line + 1):
                content = lines[line].lstrip(" ")
                indent = len(lines[line]) - len(content)
                if content.strip() and indent <= blocks[-1]:
                    yield line, indent, "indent this line by spaces, to the right of its map"
            checked = end.line
        flow += isinstance(token, _FLOW_STARTS)
        flow -= isinstance(token, _FLOW_ENDS)
        if isinstance(token, _BLOCK_STARTS):
            blocks.append(start.column)
        elif isinstance(token, yaml.BlockEndToken):
            blocks.pop()


def _unused(token: Any, text: str, flow: int) -> str | None:
    """Return why a token is refused by itself."""
    start, end = token.start_mark.index, token.end_mark.index
    written = text[start:end][:40]
    match token:
        case yaml.DirectiveToken():
            return "directives (%YAML, %TAG) are not used here"
        case yaml.TagToken():
            written = written.replace("!!", "tag:yaml.org,2002:")
            return f"tags ({written}) are not used here; write the value alone"
        case yaml.AnchorToken() | yaml.AliasToken():
            return (
                f"anchors and aliases ({written}) are not used here; write the value out, or "
                "share it by `extends`"
            )
        case yaml.ScalarToken(style="|" | ">"):
            return "text over several lines (| or >) is not used here; write it in one line"
        case yaml.ScalarToken(plain=True, value="-"):
            return _NEEDS_QUOTES
        case yaml.KeyToken() if re.match(
            r"\?" if flow else r"\?(\s|$)", text[token.start_mark.index :]
        ):
            return "a '?' here needs quotes around its text"
    return None


def sentence(error: yaml.MarkedYAMLError) -> str:
    """Return what a PyYAML error means to the author of a space file."""
    problem = str(error.problem)
    opened = f"line {error.context_mark.line + 1}" if error.context_mark else "the line above"
    if "expected <block end>" in problem and error.context_mark and error.problem_mark:
        column = error.problem_mark.column
        if column != error.context_mark.column:
            problem, opened = "wrong indentation", f"column {column + 1}"
    for part, meaning in _MEANINGS.items():
        if part in problem:
            return meaning.format(opened=opened)
    return problem if isinstance(error, LimitError) else f"not valid YAML: {problem}"


_MEANINGS = {
    "'\\t'": "a tab; YAML is indented and spaced with spaces",
    "wrong indentation": "wrong indentation: this begins in {opened}, where no map above has its "
    "entries; line it up with those it belongs to",
    "expected <block end>": "this does not go on with what began in {opened}; expected "
    "`word: value`",
    "mapping values are not allowed": "a ':' inside a value; is this line indented too far, or is "
    "a space missing after the ':' above? (text with ': ' in it needs quotes)",
    "could not find expected ':'": "expected `word: value` in {opened}; is a space missing after "
    "':'?",
    "expected ',' or '}'": "',' or '}}' is missing in the map opened in {opened}",
    "expected ',' or ']'": "',' or ']' is missing in the list opened in {opened}",
    "unexpected end of stream": "the quote opened in {opened} is never closed",
    "sequence entries are not allowed": "a '-' cannot stand here; check the indentation",
    "cannot start any token": _NEEDS_QUOTES,
    "another document": "a second document begins here; a space file holds one",
    "<document start>": "this does not belong to what stands above; check the indentation",
    "expected the node content": "a value is missing here",
}
