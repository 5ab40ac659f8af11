"""`samtune WORDS` as tests type it, in this process or in one of its own."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from samtune.cli import main


def typed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `samtune WORDS` in this process."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    out, err = capsys.readouterr()
    code = ended.value.code
    return code if isinstance(code, int) else int(code is not None), out, err


def succeed(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert not ended.value.code


# A shell's `&` makes all that it starts ignore Ctrl-C, the tests and what they start included, and
# `nohup` the end of its terminal.
_MAIN = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "signal.signal(signal.SIGHUP, signal.SIG_DFL);"
    "from samtune.cli import main; main()"
)


def command(*words: str, **options: Any) -> subprocess.Popen[str]:
    """`samtune WORDS` in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", _MAIN, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )
