"""Modules of the user's own: whatever their import does, it ends in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from samtune.importing import ModuleImportError, import_module
from samtune.space.search_space import SearchSpace, SpaceError

pytestmark = pytest.mark.usefixtures("in_folder")


@pytest.fixture(autouse=True)
def forget(tmp_path: Path) -> object:
    before = set(sys.modules)
    yield
    sys.path[:] = [place for place in sys.path if place != str(tmp_path)]
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import sys; sys.exit(0)", "it called sys.exit(0)"),
        ("raise SystemExit", "it called sys.exit()"),
        ("import sys; sys.exit('no GPU')", "it called sys.exit('no GPU')"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise GeneratorExit('over')", "GeneratorExit: over"),
        ("class Stop(BaseException): pass\nraise Stop('two\\nlines')", "Stop: two"),
        ("import nowhere_at_all", "No module named 'nowhere_at_all'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("x = (", "SyntaxError: '(' was never closed (ex.py, line 1)"),
    ],
)
def test_whatever_a_module_does_is_one_sentence(code: str, why: str) -> None:
    Path("ex.py").write_text(code)
    Path("lab.yaml").write_text("samtune: 1\ntrainable: ex:f\n")
    with pytest.raises(SpaceError) as caught:
        SearchSpace.load("lab.yaml")
    assert caught.value.messages == [f"lab.yaml:2:12: module ex cannot be imported: {why}"]
    assert caught.value.exit_code == 2


def test_a_module_does_not_see_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("ex.py").write_text(
        "import argparse\nparser = argparse.ArgumentParser()\n"
        "parser.add_argument('--lr', default=1)\nargs = parser.parse_args()\n"
        "def f(config): ...\n"
    )
    monkeypatch.setattr(sys, "argv", ["samtune", "run", "lab.yaml", "--json"])
    assert import_module("ex").args.lr == 1
    assert sys.argv == ["samtune", "run", "lab.yaml", "--json"]


@pytest.mark.parametrize("name", ["samtune", "trainables", "analysis"])
def test_samtunes_own_package_in_the_way_is_named(name: str) -> None:
    Path(name).mkdir()
    Path(name, "mine.py").write_text("def f(config): ...\n")
    Path("lab.yaml").write_text(f"samtune: 1\ntrainable: {name}.mine:f\n")
    with pytest.raises(SpaceError) as caught:
        SearchSpace.load("lab.yaml")
    (message,) = caught.value.messages
    assert f"module {name}.mine is not {Path.cwd() / name / 'mine.py'}: " in message
    assert f"samtune's own package {name} (" in message
    assert f"rename your {name}/ and write its new name here" in message


def test_any_package_in_the_way_is_named_even_where_it_has_such_a_module() -> None:
    Path("json").mkdir()
    Path("json/decoder.py").write_text("def f(config): ...\n")
    with pytest.raises(
        ModuleImportError, match=r"the installed package json \(.*rename your json/"
    ):
        import_module("json.decoder")
    Path("tabnanny.py").write_text("")
    with pytest.raises(ModuleImportError, match=r"rename your tabnanny\.py"):
        import_module("tabnanny")


def test_samtunes_own_trainables_run_beside_a_folder_of_that_name() -> None:
    Path("trainables").mkdir()
    Path("trainables/vision.py").write_text("1 / 0\n")
    assert SearchSpace.load("asam").variant == "asam"


def test_the_command_ends_with_code_2_and_says_why() -> None:
    Path("ex.py").write_text("import sys\nsys.exit(0)\n")
    Path("lab.yaml").write_text("samtune: 1\ntrainable: ex:f\n")
    done = subprocess.run(
        [sys.executable, "-m", "samtune", "run", "lab.yaml"],
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert done.returncode == 2
    assert "module ex cannot be imported: it called sys.exit(0)" in done.stderr
