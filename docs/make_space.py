"""The pages of words: those of a space file, from its schema, and those of `task:`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from docs.markdown import cell, heading, table
from samtune.space.schema import space_schema
from samtune.space.study import StudySettings
from trainables.task import TASK

_SPACE = """# Words of a space file

`python docs/make_reference.py` makes this page from the code. [Space files](spaces.md) explains
the forms, and `samtune spaces schema` prints the same for editors. A word without a default may be
left out, except for `samtune`.
"""

_TASK = """# Words of a task

`python docs/make_reference.py` makes this page from the code. These words stand under `task:` in a
space file whose trainable is one of samtune's. Another trainable has words of its own.
[Data sets, models and schedules](data.md) explains them. The safe range is the one that is worth a
search; a value outside it gives a warning.
"""

_STUDY = """A file with this section is a [study](../how-to/studies.md). Beside `study` it may have
`task` and the other sections, which then count for all of its spaces.
"""

_SHAPES = {"RangeShape": "A range", "ChoiceShape": "A choice", "GridShape": "A grid"}
_KINDS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "`true` or `false`",
}
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minItems": "at least {} of them",
}


def space_words() -> str:
    """Return the page of the words of a space file."""
    schema = space_schema()
    defs, words = schema["$defs"], schema["properties"]
    sections = {name: _target(word, defs) for name, word in words.items()}
    sections = {n: s for n, s in sections.items() if s is not None and "properties" in s}
    top = {name: word for name, word in words.items() if name not in sections}
    parts = [_SPACE, heading("The top level"), _table(top)]
    for name, section in sections.items():
        parts += [heading(f"`{name}:`"), section["description"] + "\n"]
        parts += [_table(section["properties"])]
    parts += [heading("A knob"), "A knob is one value, or one of these maps.\n"]
    for name, title in _SHAPES.items():
        parts += [heading(title, 3), defs[name]["description"] + "\n"]
        parts += [_table(defs[name]["properties"])]
    study = StudySettings.model_json_schema()["properties"]
    parts += [heading("`study:`"), _STUDY, _table(study)]
    return "\n".join(parts).rstrip() + "\n"


def task_words() -> str:
    """Return the page of the words of a task."""
    rows = [
        (f"`{knob.name}`", _type(knob.kind, knob.choices), _range(knob.low, knob.high),
         _range(*(knob.safe or (None, None))), _yaml(knob.default), cell(knob.doc),
         cell(knob.source))
        for knob in TASK.values()
    ]  # fmt: skip
    heads = ("Word", "Type", "Range", "Safe range", "Default", "Meaning", "Source")
    return f"{_TASK}\n{table(heads, rows)}"


def _table(words: Mapping[str, Any]) -> str:
    rows = [
        (f"`{name}`", cell(_kind(word)), cell(_limits(word)), _default(word),
         cell(word.get("description", "")))
        for name, word in words.items()
    ]  # fmt: skip
    return table(("Word", "Type", "Range", "Default", "Meaning"), rows)


def _target(word: Mapping[str, Any], defs: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the definition that a word refers to, None if it refers to none."""
    found: Mapping[str, Any] | None = defs.get(word.get("$ref", "").removeprefix("#/$defs/"))
    return found


def _forms(word: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the forms that a word may have, without `null`."""
    forms = word.get("anyOf") or word.get("oneOf")
    if forms is None or "type" in word:
        return [] if word.get("type") == "null" else [word]
    return [each for form in forms for each in _forms(form)]


def _kind(word: Mapping[str, Any]) -> str:
    kinds = list(dict.fromkeys(_kind_of(form) for form in _forms(word)))
    if {"text", "number", _KINDS["boolean"]} <= set(kinds):
        plain = {"text", "number", "whole number", _KINDS["boolean"]}
        kinds = ["value", *(kind for kind in kinds if kind not in plain)]
    return " or ".join(kinds)


def _kind_of(form: Mapping[str, Any]) -> str:
    if "const" in form:
        return f"`{form['const']}`"
    if "enum" in form:
        return " or ".join(f"`{value}`" for value in form["enum"])
    if "$ref" in form:
        return _SHAPES[form["$ref"].removeprefix("#/$defs/")].lower()
    if form["type"] == "array":
        return f"list of {_kind(form['items'])}"
    below = form.get("additionalProperties")
    return f"map of names to {_kind(below)}" if below else _KINDS[form["type"]]


def _limits(word: Mapping[str, Any]) -> str:
    found = [
        said.format(form[key])
        for form in _forms(word)
        for key, said in _BOUNDS.items()
        if key in form
    ]
    return ", ".join(found)


def _default(word: Mapping[str, Any]) -> str:
    value = word.get("default")
    return "" if value is None else _yaml(value)


def _yaml(value: object) -> str:
    if isinstance(value, str):
        return f"`{value}`" if value else '`""`'
    if isinstance(value, dict | list):
        return f"`{json.dumps(value)}`"
    return f"`{yaml.safe_dump(value).splitlines()[0]}`"


def _type(kind: type, choices: Iterable[str] | None) -> str:
    words = [f"`{choice}`" for choice in choices or ()]
    if kind is str and words:
        return " ".join(words)
    name = {float: "number", int: "whole number", str: "text", bool: "`true` or `false`"}[kind]
    return " or ".join([name, *words])


def _range(low: float | None, high: float | None) -> str:
    match low, high:
        case None, None:
            return ""
        case low, None:
            return f"at least {low:g}"
        case None, high:
            return f"at most {high:g}"
    return f"{low:g} to {high:g}"
