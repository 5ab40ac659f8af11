"""The trainable that a space names, and its declarations."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from samtune.errors import SamtuneError
from samtune.importing import (
    ModuleImportError,
    import_module,
    search_current_folder,
    without_arguments,
)
from samtune.messages import nearest, quoted
from samtune.space.by_value import kept
from samtune.space.errors import SpaceError

if TYPE_CHECKING:
    from samtune.optimizers.knobs import Knob

SHIPPED_MODULE = "trainables.vision"
PROGRAM_MODULE = "trainables.program"


def full_reference(reference: str) -> str:
    """Return `trainables.vision:asam` for `asam`, `trainables.program:FILE` for `program:FILE`.

    Any other reference is returned unchanged.
    """
    if reference.startswith("program:"):
        return f"{PROGRAM_MODULE}:{reference.removeprefix('program:')}"
    return reference if ":" in reference else f"{SHIPPED_MODULE}:{reference}"


def resolve(reference: str) -> Any:
    """Return the trainable of `asam`, of `my_package.my_module:my_trainable` or of `program:FILE`.

    Modules are found as Python finds them, and in the current folder last.

    Raises:
        SpaceError: The trainable cannot be found or imported.
    """
    full = full_reference(reference)
    if full.startswith(f"{PROGRAM_MODULE}:"):
        return _program(full.removeprefix(f"{PROGRAM_MODULE}:"))
    pattern = r"[A-Za-z_]\w*|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"
    if not re.fullmatch(pattern, reference, re.ASCII):
        raise SpaceError(
            [f"{reference!r} names no trainable; write asam, or my_package.my_module:my_trainable"]
        )
    if (own := kept(reference)) is not None:
        return own
    module_name, name = full.split(":")
    module = _module(module_name)
    found = getattr(module, name, None)
    if callable(found):
        return found
    known = sorted(trainables_of(module)) or sorted(
        word for word, value in vars(module).items() if callable(value) and word[0] != "_"
    )
    if ":" not in reference:
        hint = nearest(reference, known, "trainables")
        hint = hint if hint.startswith("did") else f"{hint}; your own: my_package.my_module:name"
        raise SpaceError([f"no trainable is called {reference!r}; {hint}"])
    raise SpaceError([f"module {module_name} has no trainable {name!r}; {nearest(name, known)}"])


def _program(path: str) -> Any:
    try:
        return _module(PROGRAM_MODULE).program(path)
    except SpaceError:
        raise
    except SamtuneError as error:
        raise SpaceError(error.messages) from error


@contextmanager
def uncollected() -> Iterator[None]:
    """Pause Python's garbage collection in the block.

    An import of torch or Ray makes no garbage, but the search for it takes a sixth of its time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def trainables_of(module: Any) -> dict[str, Any]:
    """Return the trainables of a module that declare their knobs, by name."""
    return {
        word: value
        for word, value in vars(module).items()
        if hasattr(value, "knobs") and hasattr(value, "variant") and not isinstance(value, type)
    }


def imported(trainable: str, base: str, task: Mapping[str, Any]) -> list[str]:
    """Import everything that a space names, and return the references of the user's own code.

    These are the trainable and what its `references(task, base)` adds, such as the model and the
    base of the shipped trainables.

    Raises:
        SpaceError: One of them cannot be imported, or the trainable refuses a task word.
    """
    declared = Declared.of(trainable, base)
    if declared.base_fault:
        raise SpaceError([declared.base_fault])
    for word, value in task.items():
        if declared.task and word in declared.task:
            try:
                declared.task[word].check(value)
            except ValueError as error:
                raise SpaceError([f"task.{error}"]) from error
    named = getattr(declared.trainable, "references", None)
    return [declared.reference, *(named(task, base) if named else ())]


def _module(name: str) -> ModuleType:
    if name.partition(".")[0] == "trainables":
        _refuse_stranger()
    try:
        with uncollected():
            if name in {SHIPPED_MODULE, PROGRAM_MODULE}:
                # These are samtune's own, even if the user has a folder trainables/.
                return importlib.import_module(name)
            return import_module(name)
    except ModuleImportError as error:
        raise SpaceError(error.messages) from error


def _refuse_stranger() -> None:
    """Refuse a package `trainables` that is not beside samtune, before any of it runs."""
    import samtune

    home = Path(samtune.__file__).resolve().parent.parent
    spec = importlib.util.find_spec("trainables")
    if spec is None:
        return
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or [])
    for place in places:
        folder = Path(place).parent if spec.origin else Path(place)
        if folder.resolve() != home / "trainables":
            raise SpaceError(
                [f"{place} stands in the way of samtune's own trainables/; rename it"]
            )


@dataclass(frozen=True)
class Declared:
    """The declarations of a trainable.

    Attributes:
        base_fault: Why the trainable cannot use the requested base; empty if it can.
        knobs: Its knobs, or None if it declares none.
        task: The words of its task, or None if it declares none.
        metrics: What a search may improve, each with `max` or `min`; empty for any metric.
    """

    name: str
    reference: str
    variant: str
    bases: tuple[str, ...]
    base: str
    base_fault: str
    knobs: dict[str, Knob] | None
    task: dict[str, Knob] | None
    metrics: dict[str, str]
    trainable: Any

    @classmethod
    def of(cls, reference: str, base: str | None) -> Declared:
        """Return the declarations of a reference's trainable, with its first base for a wrong one.

        Raises:
            SpaceError: The trainable cannot be found or imported.
        """
        trainable = resolve(reference)
        name = full_reference(reference).partition(":")[2]
        bases = tuple(getattr(trainable, "bases", ()))
        knobs = getattr(trainable, "knobs", None)
        fault = ""
        if bases and base is not None and base not in bases:
            fault = f"{name} has no base {quoted(base)}; {nearest(base, bases, 'it has')}"
            if getattr(trainable, "other_bases", False) and callable(knobs):
                search_current_folder()
                try:
                    # The module of the base may parse its arguments as well.
                    with without_arguments():
                        fault = "" if knobs(base) else fault
                except ValueError as error:
                    fault = str(error)
        if bases and (base is None or fault):
            base = bases[0]
        task = getattr(trainable, "task", None)
        base = base or "none"
        return cls(
            name=name,
            reference=full_reference(reference),
            variant=str(getattr(trainable, "variant", name)),
            bases=bases,
            base=base,
            base_fault=fault,
            knobs=dict(knobs(base)) if callable(knobs) else None,
            task=dict(task) if task is not None else None,
            metrics=dict(getattr(trainable, "metrics", {})),
            trainable=trainable,
        )

    def metrics_of(self, task: Mapping[str, Any]) -> dict[str, str]:
        """Return what a search may improve on a task: what the trainable's own method says."""
        asked = getattr(self.trainable, "metrics_of", None)
        return dict(asked(task)) if callable(asked) else self.metrics

    def unknown_knob(self, word: str) -> str:
        """Return the reason for an unknown knob: a misspelling, or another base or variant."""
        knobs = self.knobs or {}
        others = [base for base in self.bases if word in self.trainable.knobs(base)]
        if others:
            return (
                f"{word!r} is a knob of the base {' and '.join(others)}, and this space's base is "
                f"{self.base}; remove it, or write `base: {others[0]}`"
            )
        near = nearest(word, knobs, f"{self.name} has")
        if not near.startswith("did"):
            siblings = trainables_of(sys.modules[self.reference.split(":")[0]])
            owners = [
                name
                for name, sibling in sorted(siblings.items())
                if any(word in sibling.knobs(base) for base in sibling.bases)
            ]
            if owners:
                return f"{word!r} is a knob of {', '.join(owners)}, not of {self.name}; {near}"
        return f"{self.name} has no knob {word!r}; {near}"
