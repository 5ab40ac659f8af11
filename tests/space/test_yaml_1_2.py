"""YAML 1.2, where PyYAML reads 1.1: the cases in which they differ, and characters in values."""

from __future__ import annotations

import re

import pytest

from samtune.space import strict_yaml
from samtune.space.strict_yaml import StrictYamlError

QUESTION = "a '?' here needs quotes around its text"
COMMENT = "write a space before a '#' that begins a comment"
INDENT = "indent this line by spaces, to the right of its map"
BLOCK = "text over several lines (| or >) is not used here; write it in one line"
QUOTES = "text that begins with this character needs quotes"


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("{?lr: 0.1}", "1:2", QUESTION),
        ("[?x]", "1:2", QUESTION),
        ("[a?b]", "1:3", QUESTION),
        ("? lr\n: 0.1", "1:1", QUESTION),
        ("- |+\n   ", "1:3", BLOCK),
        ("a: >\n \n  \n   \n # comment\n", "1:4", BLOCK),
        ("{choice: [0.1, 0.2]}#x", "1:21", COMMENT),
        ("[a, b,#x\n]", "1:7", COMMENT),
        ("a: 'x'#x", "1:7", COMMENT),
        ("a: {b: 1}#x", "1:10", COMMENT),
        ("a: [1,\n2]", "2:1", INDENT),
        ("a: [\n  1\n]", "3:1", INDENT),
        ("a:\n  b: {c: 1,\n  d: 2}", "3:3", INDENT),
        ("- - [a,\n  b]", "2:3", INDENT),
        ('a: "x\ny"', "2:1", INDENT),
        ("a: 'x\n\n  y\nz'", "4:1", INDENT),
        ('a: "x\n\ty"', "2:1", INDENT),
        ("[-]", "1:2", QUOTES),
        ("a: [1, -]", "1:8", QUOTES),
        ("{a: -}", "1:5", QUOTES),
        ("[:x]", "1:2", "a value is missing here"),
        ("{: x}", "1:2", "a value is missing here"),
        ("a: b\x85c", "1:5", "control character '\\x85'; is this a text file?"),
        ("a: b\u2028c", "1:5", "control character '\\u2028'; is this a text file?"),
    ],
)
def test_what_only_yaml_1_1_accepts_is_refused(text: str, place: str, message: str) -> None:
    with pytest.raises(StrictYamlError, match=f"^f:{place}: {re.escape(message)}$"):
        strict_yaml.load(text.encode(), "f")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("?lr: 0.1", {"?lr": 0.1}),
        ("a: [1, 2 # x\n# y\n  , 3]", {"a": [1, 2, 3]}),
        ("a: b# c", {"a": "b# c"}),
        ("[a,\nb]", ["a", "b"]),
        ("a: [1,\n 2]", {"a": [1, 2]}),
        ("a:\n- [x,\n y]", {"a": [["x", "y"]]}),
        ('a: "x\n \ty"', {"a": "x y"}),
        ("{a:1}", {"a:1": None}),
        ('{"a":1}', {"a": 1}),
        ("[-1, -a, a-]", [-1, "-a", "a-"]),
        ("a: [\r\n 1]\r\nb: 2", {"a": [1], "b": 2}),
    ],
)
def test_what_both_accept_means_what_yaml_1_2_says(text: str, value: object) -> None:
    assert strict_yaml.load(text.encode(), "f").plain() == value


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (r"\n", "a newline; a value is one line"),
        (r"\t", "a tab; a value is one line"),
        (r"\r", "a carriage return; a value is one line"),
        (r"\e", "a character that cannot be printed (u+001b)"),
        (r"\_", "a character that cannot be printed (no-break space)"),
        (r"\u200b", "a character that cannot be printed (zero width space)"),
    ],
)
@pytest.mark.parametrize("form", ['a: "x{}y"', '"x{}y": 1', 'a: [1, "x{}y"]'])
def test_a_character_that_no_value_may_hold_is_called_by_its_name(
    text: str, what: str, form: str
) -> None:
    with pytest.raises(StrictYamlError, match=re.escape(f"holds {what}")):
        strict_yaml.load(form.format(text).encode(), "f")
