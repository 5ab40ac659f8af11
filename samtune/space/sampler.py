"""The word `search.method`: a method of samtune's, or the path of a sampler of the user's."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from samtune.importing import ModuleImportError, import_module
from samtune.messages import nearest
from samtune.space.errors import SpaceError


def method_fault(method: str) -> str | None:
    """Return why a search cannot use this method here, and what to type; None if it can."""
    if method == "cmaes" and importlib.util.find_spec("cmaes") is None:
        return "cmaes needs the package of that name: type `pip install 'samtune[cmaes]'`"
    if ":" not in method:
        return None
    try:
        own_sampler(method)
    except SpaceError as error:
        return " ".join(error.messages)
    return None


def own_sampler(path: str) -> Callable[..., Any]:
    """Return the function or class that a path names; called with `seed`, it gives a sampler.

    Raises:
        SpaceError: It cannot be imported, or it is no function or class.
    """
    module_name, _, name = path.partition(":")
    try:
        found = getattr(module := import_module(module_name), name, None)
    except ModuleImportError as error:
        raise SpaceError(error.messages) from error
    if callable(found):
        sampler: Callable[..., Any] = found
        return sampler
    known = sorted(word for word, value in vars(module).items() if callable(value))
    raise SpaceError([f"module {module_name} has no sampler {name!r}; {nearest(name, known)}"])
