"""The pages of the Python API: every public name, whose docstring the site shows."""

from __future__ import annotations

import samtune
import samtune.optimizers

_API = """# Python API

`python docs/make_reference.py` makes this page: every public name of `samtune` is here, with its
docstring. [From Python](../how-to/python.md) shows how they are used.
"""
_OPTIMIZERS = """# Optimizers in Python

`python docs/make_reference.py` makes this page: every public name of `samtune.optimizers` is here,
with its docstring. [Variants](variants.md) has the knobs, and
[your own loop](../how-to/optimizers.md) the ways to make a step.
"""
_SKIPPED = {"__version__", "VARIANTS", "BASES"}
# What authors of variants use of its base class.
_INHERITED = {
    "Variant": "    options:\n      inherited_members: [parameters, weights, perturbed]\n"
}


def api() -> str:
    """Return the page of `samtune`."""
    return _page(_API, "samtune", samtune.__all__)


def optimizers() -> str:
    """Return the page of `samtune.optimizers`."""
    return _page(_OPTIMIZERS, "samtune.optimizers", samtune.optimizers.__all__)


def _page(head: str, package: str, names: list[str]) -> str:
    parts = [head]
    for name in names:
        if name in _SKIPPED:
            continue
        found = getattr(__import__(package, fromlist=[name]), name)
        path = f"{found.__module__}.{found.__qualname__}"
        parts.append(f"::: {path}\n{_INHERITED.get(name, '')}")
    return "\n".join(parts)
