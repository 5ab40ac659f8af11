"""The text of a frozen space: YAML with each value written out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from samtune.space.strict_yaml import scalar

# Readers of YAML 1.1, such as PyYAML, take these words for true and false.
_BOOLEANS = {"yes", "no", "on", "off"}


def dump(resolved: Mapping[str, Any]) -> str:
    """Return YAML 1.2 that is read back to the same values and types, in the same order."""
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
        if plain and isinstance(scalar(value), str) and value.lower() not in _BOOLEANS:
            return value
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(value)
