"""Observers of a sweep: loggers, and a function of the user.

The driver passes each committed event to `Observers`. A failing observer does not end the sweep:
its first failure is recorded and shown once.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from samtune.importing import ModuleImportError, import_module
from samtune.messages import nearest
from samtune.record.folder import RunError
from samtune.record.record import Record
from samtune.record.rows import TrialRow
from samtune.sweep.loggers import LOGGERS

if TYPE_CHECKING:
    from samtune.record.rows import Verdict


class Observer(Protocol):
    """A receiver of the events of a sweep; `space` is the name of the trial's space."""

    name: str

    def started(self, space: str, trial: TrialRow, attempt: int) -> None:
        """Receive the beginning of an attempt at a trial."""

    def reported(
        self, space: str, trial: TrialRow, attempt: int, report: Mapping[str, Any], decision: str
    ) -> None:
        """Receive a report of the trainable, and what was decided on it."""

    def ended(self, space: str, trial: TrialRow, state: str) -> None:
        """Receive the end of a trial, or a pause."""

    def close(self) -> None:
        """Receive the end of the sweep."""


class Observers:
    """All observers of a run. Use it as a context manager."""

    def __init__(
        self, record: Record, observers: Sequence[Observer], warn: Callable[[str], None]
    ) -> None:
        """Take the observers, and a function that shows a sentence to people."""
        self._record = record
        self._observers = observers
        self._warn = warn
        self._failed: set[str] = set()
        self._spaces = {study.study: study.name for study in record.studies()}

    def started(self, trial: TrialRow, attempt: int) -> None:
        """Pass on the beginning of an attempt at a trial."""
        self._each(trial, lambda o: o.started(self._spaces[trial.study], trial, attempt))

    def reported(
        self, trial: TrialRow, attempt: int, report: Mapping[str, Any], verdict: Verdict
    ) -> None:
        """Pass on a report and its verdict."""
        space, decision = self._spaces[trial.study], verdict.decision
        self._each(trial, lambda o: o.reported(space, trial, attempt, report, decision))

    def ended(self, trial: TrialRow, state: str) -> None:
        """Pass on the end of a trial, or a pause."""
        self._each(trial, lambda o: o.ended(self._spaces[trial.study], trial, state))

    def __enter__(self) -> Observers:
        """Return the observers themselves."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close each observer."""
        self._each(None, lambda o: o.close())

    def _each(self, trial: TrialRow | None, message: Callable[[Observer], None]) -> None:
        for observer in self._observers:
            try:
                message(observer)
            # A user's function may call sys.exit.
            except (Exception, SystemExit) as error:
                why = f"{observer.name}: {type(error).__name__}: {error}"
                if observer.name not in self._failed:
                    self._failed.add(observer.name)
                    self._record.add_event("observer failed", why, trial.trial if trial else None)
                    self._warn(f"{why}; the sweep goes on, and further failures are not shown")


class Hook:
    """The user's function, called with a dict per report in the driver's process."""

    def __init__(self, reference: str, run: str) -> None:
        """Import the function `my_package.my_module:function`."""
        self.name = f"--hook {reference}"
        self._function = _function(reference)
        self._run = run

    def started(self, space: str, trial: TrialRow, attempt: int) -> None:
        """Do nothing."""

    def reported(
        self, space: str, trial: TrialRow, attempt: int, report: Mapping[str, Any], decision: str
    ) -> None:
        """Call the function, with its standard output sent to standard error."""
        message = {
            "run": self._run,
            "space": space,
            "stage": trial.stage,
            "trial": trial.number,
            "attempt": attempt,
            "knobs": dict(trial.config.knobs),
            "epoch": report["epoch"],
            "used": report["used"],
            "metrics": dict(report["metrics"]),
            "decision": decision,
        }
        # What a command prints to stdout is its answer alone.
        with contextlib.redirect_stdout(sys.stderr):
            self._function(message)

    def ended(self, space: str, trial: TrialRow, state: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def check(names: Sequence[str], hook: str | None) -> None:
    """Raise RunError (exit code 2) for an unknown logger, a missing package or a missing hook."""
    for name in names:
        if name not in LOGGERS:
            raise RunError(f"no logger is called {name!r}; {nearest(name, LOGGERS)}", exit_code=2)
        package = LOGGERS[name].package
        if importlib.util.find_spec(package) is None:
            raise RunError(
                f"--log {name} needs the package {package}: pip install 'samtune[{name}]'",
                exit_code=2,
            )
    if hook is not None:
        _function(hook)


def observers(
    record: Record, names: Sequence[str], hook: str | None, warn: Callable[[str], None]
) -> Observers:
    """Return the observers that the options name; loggers write into folders of the run.

    Args:
        record: the run.
        names: loggers, keys of `LOGGERS`.
        hook: `my_package.my_module:function`, or None.
        warn: shows a sentence to people.

    Raises:
        RunError: the hook cannot be imported (exit code 2), or a logger does not start (5).
    """
    found: list[Observer] = [Hook(hook, record.name)] if hook is not None else []
    for name in dict.fromkeys(names):
        folder = record.folder / name
        try:
            folder.mkdir(exist_ok=True)
            found.append(LOGGERS[name](folder))
        except Exception as error:
            why = " ".join(str(error).split())[:300]
            raise RunError(f"--log {name} did not start: {why}", exit_code=5) from error
    return Observers(record, found, warn)


def _function(reference: str) -> Callable[[dict[str, Any]], object]:
    module_name, _, name = reference.partition(":")
    if not module_name or not name.isidentifier():
        raise RunError(f"--hook {reference!r}: write my_package.my_module:function", exit_code=2)
    try:
        module = import_module(module_name)
    except ModuleImportError as error:
        raise RunError(f"--hook {reference}: {error}", exit_code=2) from None
    function = getattr(module, name, None)
    if not callable(function):
        known = [word for word, value in vars(module).items() if callable(value)]
        raise RunError(
            f"--hook: module {module_name} has no function {name!r}; {nearest(name, known)}",
            exit_code=2,
        )
    hook: Callable[[dict[str, Any]], object] = function
    return hook
