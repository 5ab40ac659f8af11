"""Rules for the rungs as text: `mode=promote,grace=4,factor=3` in, `promote 4 x 3` out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from samtune.space.errors import read_document
from samtune.space.schema import AshaSettings
from samtune.space.search_space import SpaceError
from samtune.space.strict_yaml import Mark, Node, Problem
from samtune.space.strict_yaml import scalar as yaml_scalar

# Said where they are not 0 or nothing.
_WORDS = ("tolerance", "audit", "until", "rescue")


def rules_of(texts: Sequence[str], own: AshaSettings) -> list[AshaSettings]:
    """Return the run's own rule and those that the texts name, each once.

    Args:
        texts: rules, as of `rule_of`.
        own: the run's rule.

    Raises:
        SpaceError: every mistake in any of the texts.
    """
    rules, messages = [own], []
    for text in texts:
        try:
            rules.append(rule_of(text, own))
        except SpaceError as error:
            messages += error.messages
    if messages:
        raise SpaceError(messages)
    return list({rule_text(rule.model_dump()): rule for rule in rules}.values())


def rule_of(text: str, own: AshaSettings | None = None) -> AshaSettings:
    """Return the rule that a text such as `mode=promote,grace=4` names.

    Args:
        text: the rule; a word left out is as in `own`, or has its default. A rule that has no
            rescue, such as `promote`, leaves that of `own` out.
        own: another rule, or None.

    Raises:
        SpaceError: every mistake in the text.
    """
    problems: list[Problem] = []
    words: dict[str, Node] = {}
    for item in text.split(","):
        mark = Mark(f"--asha {item.strip()}")
        word, equals, value = (part.strip() for part in item.partition("="))
        if not (word and equals and value):
            problems.append((mark, "write it as word=value, such as grace=4"))
        elif word in words:
            problems.append((mark, f"{word!r} is given twice"))
        else:
            words[word] = Node(yaml_scalar(value), mark, mark)
    nowhere, given = Mark("--asha"), {*words}
    rest = own.model_dump() if own else {}
    words = {word: Node(value, nowhere, nowhere) for word, value in rest.items()} | words
    root = {"samtune": Node(1, nowhere, nowhere), "asha": Node(words, nowhere, nowhere)}
    document, found, _ = read_document(Node(dict(root), nowhere, nowhere))
    asha = document.asha
    if asha.rescue_fault and "rescue" not in given:
        asha = asha.model_copy(update={"rescue": 0})
    if asha.rescue_fault:
        found = [*found, (nowhere, asha.rescue_fault)]
    if problems + found:
        raise SpaceError([f"{mark}: {text}" for mark, text in problems + found])
    return asha


def rule_text(asha: dict[str, Any]) -> str:
    """Return a rule as text: `promote 4 x 3, tolerance 1`."""
    grace = asha["grace"] if isinstance(asha["grace"], str) else f"{asha['grace']:g}"
    said = f"{asha['mode']} {grace} x {asha['factor']:g}"
    return said + "".join(f", {w} {asha[w]:g}" for w in _WORDS if asha.get(w))
