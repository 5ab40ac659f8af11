"""Standard streams that are closed, full, broken or of a poor locale; JSON whatever fails."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from samtune.cli import COMMANDS, cli, main
from samtune.commands.streams import Stream

SAMTUNE = [sys.executable, "-m", "samtune"]


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `samtune` inside a shell line, in which S stands for it."""
    program = " ".join(SAMTUNE)
    return subprocess.run(
        ["bash", "-c", line.replace("samtune", program)],
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, **environment},
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("samtune spaces list > /dev/full", "No space left on device"),
        ("samtune --help > /dev/full", "No space left on device"),
        ("samtune spaces schema >&-", "it is closed"),
        ("samtune spaces list >&- <&-", "it is closed"),
    ],
)
def test_output_that_cannot_be_written_is_a_sentence(line: str, why: str) -> None:
    done = shell(line)
    assert done.returncode == 5
    assert done.stderr == f"samtune: standard output cannot be written: {why}\n"


@pytest.mark.parametrize("words", ["spaces schema", "--help", "ls"])
def test_a_reader_that_has_read_enough_ends_a_command_silently(words: str, tmp_path: Path) -> None:
    done = shell(f"cd {tmp_path}; samtune {words} | exec true; exit ${{PIPESTATUS[0]}}")
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full"])
def test_without_a_place_for_messages_the_answer_and_the_exit_code_remain(closed: str) -> None:
    done = shell(f"samtune spaces list {closed}")
    assert done.returncode == 0 and "asam" in done.stdout
    done = shell(f"samtune run nosuch {closed}")
    assert done.returncode == 2 and done.stdout == "" and done.stderr == ""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_character_that_the_locale_lacks_is_escaped(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "ünit\N{EN DASH}.yaml").write_text("samtune: 1\ntrainable: samm\n")
    done = shell(f"cd {tmp_path} && samtune run ./ünit\N{EN DASH}.yaml", PYTHONIOENCODING=encoding)
    assert done.returncode == 2
    assert "fault" not in done.stderr and "\\u2013" in done.stderr


def test_closed_streams_give_their_numbers_to_no_file(tmp_path: Path) -> None:
    """A record with the number of standard output would be overwritten by any print."""
    code = (
        "import os; from samtune.commands.streams import standard_streams\n"
        "with standard_streams():\n"
        f"    number = os.open({str(tmp_path / 'f')!r}, os.O_CREAT | os.O_WRONLY)\n"
        "os.write(number, b'%d' % number)"
    )
    subprocess.run(
        ["bash", "-c", f'{sys.executable} -c "$0" >&- 2>&- <&-', code], timeout=60, check=True
    )
    assert int((tmp_path / "f").read_text()) > 2


def test_a_stream_that_is_closed_is_no_terminal() -> None:
    """Libraries ask when Python ends, and a caller may have closed the stream by then."""
    behind = io.StringIO()
    behind.close()
    assert not Stream(behind, required=False).isatty()


def test_help_survives_without_docstrings() -> None:
    done = shell("samtune --help", PYTHONOPTIMIZE="2")
    assert done.returncode == 0
    assert "Sweep one or several spaces" in done.stdout
    done = shell("samtune run sgd", PYTHONOPTIMIZE="2")
    assert done.returncode == 5 and "fault" not in done.stderr
    assert "unset PYTHONOPTIMIZE" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["run", "nosuch", "--json"],
        ["run", "--json"],
        ["status", "nosuch", "--json"],
        ["runn", "--json"],
        ["leaderboard", "nosuch", "--format", "json"],
        ["leaderboard", "nosuch", "--format=json"],
    ],
)
def test_an_error_is_one_json_document_where_json_was_asked_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(words)
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["schema"] == "error/1"
    assert told["exit_code"] == ended.value.code == 2
    assert told["messages"] and err


def test_an_unforeseen_error_is_json_as_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("\x1b[31mwhat")

    monkeypatch.setattr(cli, "main", fail)
    with pytest.raises(SystemExit) as ended:
        main(["status", "--json"])
    out, err = capsys.readouterr()
    assert ended.value.code == 1
    assert json.loads(out)["messages"][1].startswith("this is a fault of samtune's")
    assert "\x1b" not in err


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_each_command_says(name: str) -> None:
    command = cli.get_command(
        cli.make_context("samtune", ["--help"], resilient_parsing=True), name
    )
    assert command is not None and command.name == name
    assert command.get_short_help_str(200) == COMMANDS[name][1]
