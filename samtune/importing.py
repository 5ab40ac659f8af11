"""The import of a user's own modules, with a sentence for each possible error."""

from __future__ import annotations

import filecmp
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from samtune.errors import SamtuneError


class ModuleImportError(SamtuneError):
    """A module that cannot be imported."""

    exit_code = 2


def import_module(name: str) -> ModuleType:
    """Import a module as Python finds it, and from the current folder last.

    The module does not see samtune's command line.

    Raises:
        ModuleImportError: The module is missing, is hidden by another package of its name, fails,
            or ends Python.
    """
    search_current_folder()
    if hidden := _hidden(name):
        raise ModuleImportError(hidden)
    try:
        with without_arguments():
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            where = f"in {os.getcwd()} or on Python's path"
            raise ModuleImportError(f"no module {error.name!r} {where}") from None
        why = _first_line(error)
    except SystemExit as error:
        why = f"it called sys.exit({'' if error.code is None else repr(error.code)})"
    except BaseException as error:
        why = f"{type(error).__name__}: {_first_line(error)}".removesuffix(": ")
    raise ModuleImportError(f"module {name} cannot be imported: {why}")


def search_current_folder() -> None:
    """Let Python find modules in the current folder, after all other places."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())


@contextmanager
def without_arguments() -> Iterator[None]:
    """Hide the command line's arguments in the block from imported modules that parse them."""
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        yield
    finally:
        sys.argv = arguments


def _hidden(name: str) -> str | None:
    """Return why the module of this name in the current folder is not the one that is imported."""
    top = name.partition(".")[0]
    own = Path.cwd().joinpath(*name.split("."))
    file = own.with_name(f"{own.name}.py")
    spec = importlib.util.find_spec(top) if file.is_file() or own.is_dir() else None
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or []) or [spec.origin or ""]
    if any(Path(place).resolve().is_relative_to(Path.cwd()) for place in places):
        return None
    here = file if file.is_file() else own / "__init__.py"
    sent = Path(places[0]).parent / here.relative_to(Path.cwd())
    if here.is_file() and sent.is_file() and filecmp.cmp(here, sent, shallow=False):
        # `--ship-code` has sent a copy to the workers.
        return None
    home = Path(__file__).resolve().parent.parent
    whose = "samtune's own package" if Path(places[0]).parent == home else "the installed package"
    mine = f"{top}/" if "." in name or own.is_dir() else file.name
    return (
        f"module {name} is not {file if file.is_file() else own}: {whose} {top} ({places[0]}) "
        f"stands in its way; rename your {mine} and write its new name here"
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")
