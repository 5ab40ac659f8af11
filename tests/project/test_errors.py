"""Every error that a user can meet is a SamtuneError, and survives the way from a worker."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import pytest

import analysis
import samtune
import trainables
from samtune import cli
from samtune.errors import SamtuneError
from samtune.record.folder import RunError
from samtune.space.errors import SpaceError
from samtune.space.strict_yaml import Mark, StrictYamlError

# `samtune.optimizers` is usable with torch alone, and raises Python's own kinds.
PLAIN = {"ClosureError", "KnobError", "NonFiniteError"}
# Caught where they are raised, and told as a RunError or a StrictYamlError.
INTERNAL = {"DamagedError", "LimitError"}


def modules(package: ModuleType) -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def test_every_error_class_derives_from_the_base() -> None:
    found = {
        value
        for package in (samtune, trainables, analysis)
        for module in modules(package)
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Exception)
        and value.__module__ == module.__name__
    }
    others = {kind.__name__ for kind in found if not issubclass(kind, SamtuneError)}
    assert others == PLAIN | INTERNAL
    assert len(found) > 12


@pytest.mark.parametrize(
    "error",
    [
        RunError("no run 'x'", exit_code=2),
        SpaceError(["a.yaml:1:1: first", "a.yaml:2:1: second"]),
        StrictYamlError([(Mark("a.yaml", 1, 2), "not YAML")]),
    ],
)
def test_an_error_survives_pickling_whole(error: SamtuneError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert (copy.messages, copy.exit_code) == (error.messages, error.exit_code)


def test_the_exit_code_belongs_to_the_class_and_may_be_changed_for_one() -> None:
    assert SpaceError(["wrong"]).exit_code == 2
    assert (RunError("x").exit_code, RunError("x", exit_code=5).exit_code) == (1, 5)
    assert RunError.exit_code == 1


def test_the_command_line_prints_each_message_and_ends_with_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise SamtuneError(["first sentence", "second sentence"], exit_code=4)

    monkeypatch.setattr(cli.cli, "main", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    assert ended.value.code == 4
    assert capsys.readouterr().err == "samtune: first sentence\nsamtune: second sentence\n"
