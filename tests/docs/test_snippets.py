"""Commands, Python, space files and links to scripts in the documents are tried.

Python of a page runs in one namespace. A line `<!-- test: ... -->` before a block says more:

    file NAME       the block is a file that later blocks of the page use
    names           the block would train for long; the names it uses are looked up
    run [WORDS]     the commands run for real, `samtune run` with these words added
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path

import click
import pytest
import yaml
from marked_blocks import Block, blocks, commands, indented

import samtune
from docs.figures import DOCUMENTS
from samtune.cli import cli, main
from samtune.space.schema import Document
from samtune.space.search_space import SearchSpace
from samtune.space.study import is_study, members

ROOT = Path(__file__).parents[2]
PART = re.compile(rf"^({'|'.join(Document.model_fields)}): ")


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def having(kind: str, mark: str = "") -> list[Path]:
    """Return the documents with a block of this kind, and of this mark if one is given."""
    return [
        document
        for document in DOCUMENTS
        if any(b.kind == kind and b.mark.startswith(mark) for b in blocks(document))
    ]


def written(block: Block, folder: Path) -> Path | None:
    """Write a block that is a file, and return its path; None for another block."""
    if not block.mark.startswith("file "):
        return None
    path = folder / block.mark.removeprefix("file ")
    path.write_text(block.text)
    return path


def parsed(words: list[str]) -> None:
    """Parse a command without running it. Raises click.UsageError for an unknown word."""
    group: click.Command = cli
    context = click.Context(cli, info_name="samtune")
    while isinstance(group, click.Group) and words:
        _, command, words = group.resolve_command(context, words)
        assert command is not None
        group = command
    if not isinstance(group, click.Group):
        group.make_context(group.name, list(words), parent=context)


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_command_of_a_document_is_one(
    document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMTUNE_ALLOW_OPEN_RAY", "")
    for whole, words in commands(document):
        try:
            parsed(words)
        except click.MissingParameter:
            assert not whole, words
        except click.UsageError as error:
            assert "does not exist" in error.message, (words, error.message)


def test_a_command_that_is_none_is_found() -> None:
    with pytest.raises(click.UsageError):
        parsed(["run", "sam", "--sett", "lr=1"])
    with pytest.raises(click.UsageError):
        parsed(["spaces", "lst"])


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_script_that_a_document_runs_is_there(document: Path) -> None:
    text = document.read_text()
    for module in re.findall(r"python -m (benchmarks[\w.]+)", text):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists(), module
    for script in re.findall(r"python (docs/\S+\.py)", text):
        assert (ROOT / script).exists(), script
    for path in re.findall(r"`((?:examples|tests|benchmarks)/[\w/.-]+)`", text):
        assert (ROOT / path).exists(), path


# tests/project/test_package.py runs the README's.
PYTHON = [document for document in having("python") if named(document) != "README.md"]


@pytest.mark.parametrize("document", PYTHON, ids=named)
def test_the_python_of_a_document_runs(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, object] = {"__name__": "snippet"}
    for block in blocks(document):
        if block.kind != "python":
            continue
        if block.mark == "names":
            looked_up(block.text)
        elif path := written(block, tmp_path):
            names |= vars(importlib.import_module(path.stem))
        else:
            exec(compile(block.text, named(document), "exec"), names)


def looked_up(text: str) -> None:
    """Look up the attributes of `samtune` and of a run in a block."""
    homes = {"samtune": samtune, "run": samtune.Run}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            home = homes.get(node.value.id)
            assert home is None or hasattr(home, node.attr) or node.attr == "exit_code", node.attr


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_space_file_of_a_document_is_one(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(document):
        written(block, tmp_path)
    lines = [line for line in indented(document) if PART.match(line)]
    whole = [block.text for block in blocks(document) if block.kind == "yaml"]
    for text in [*whole, *lines]:
        if "samtune" not in yaml.safe_load(text):
            text = f"samtune: 1\nextends: sam.yaml\n{text}\n"
        for folder in re.findall(r"folder:(\w+)", text):
            Path(folder).mkdir(exist_ok=True)
        Path("snippet.yaml").write_text(text)
        if is_study("snippet.yaml"):
            members("snippet.yaml")
        else:
            SearchSpace.load("snippet.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("document", having("sh", "run"), ids=named)
def test_the_marked_commands_of_a_document_run(
    document: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for block in blocks(document):
        written(block, tmp_path)
        if block.kind == "sh" and block.mark.startswith("run"):
            for line in block.text.splitlines():
                code, out = typed(capsys, line, block.mark.removeprefix("run"))
                assert code == 0, (line, out)


def typed(capsys: pytest.CaptureFixture[str], line: str, more: str) -> tuple[int, str]:
    """Run a line in this process; return its exit code and what it printed."""
    words, _, file = line.partition(" > ")
    first, *rest = shlex.split(words)
    assert first == "samtune", line
    with pytest.raises(SystemExit) as ended:
        main([*rest, *(shlex.split(more) if rest[0] == "run" else [])])
    told = capsys.readouterr()
    if file:
        Path(file).write_text(told.out)
    assert isinstance(ended.value.code, int)
    return ended.value.code, told.out + told.err
