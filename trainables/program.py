"""A program as a trainable: `trainable: program:train.py` runs it once per trial.

The program gets each knob as `--name value`, and the whole trial as JSON in the environment
variable `SAMTUNE_TRIAL`. It reports by printing one JSON object per epoch on a line of its own,
`{"epoch": 1, "val_acc": 0.9}`, or by `samtune.report(epoch=1, val_acc=0.9)`. Its other output goes
to the trial's log. It is ended when the sweep stops the trial.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from samtune.errors import SamtuneError
from samtune.trial import PROGRAM_TRIAL, ReportError, TrialConfig, report

# The time that a program may take to end after SIGTERM.
_GRACE_S = 10.0


class ProgramError(SamtuneError):
    """A program that cannot be run, or that ended with an exit code other than 0."""

    exit_code = 2


class Program:
    """The trainable that runs one program.

    Attributes:
        variant: The name in the leaderboard: the file's name without its suffix.
        files: The file, whose change a resumed run reports.

    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.files = (path,)
        self.variant = Path(path).stem

    def __call__(self, config: TrialConfig) -> None:
        """Run the program and pass its reports on.

        Raises:
            ProgramError: The program ends with an exit code other than 0.
            ReportError: A report is wrong, or no line held the metric.

        """
        names: set[str] = set()
        epoch = 0
        with _running(self.command(config), config) as (process, errors):
            for line in process.stdout or ():
                found = _metrics(line)
                if found is None:
                    print(line, end="")
                    continue
                names |= found.keys()
                if config.metric in found:
                    epoch += 1
                    report(**{"epoch": epoch, **found})
            code = process.wait()
        if code:
            last = next((line for line in reversed(errors) if line.strip()), "it says nothing")
            raise ProgramError(f"{self.path} ended with exit code {code}: {last.strip()}")
        if not epoch:
            seen = ", ".join(sorted(names)) or "nothing"
            raise ReportError(
                f"{self.path} reported no {config.metric!r}, the metric of this sweep; its lines "
                f'of JSON hold: {seen}; print one per epoch: {{"{config.metric}": 0.9}}'
            )

    def command(self, config: TrialConfig) -> list[str]:
        """Return the command line of a trial."""
        program = str(Path(self.path).absolute())
        start = [sys.executable, program] if program.endswith(".py") else [program]
        words = [(f"--{name}", str(value)) for name, value in config.knobs.items()]
        return [*start, *(word for pair in words for word in pair)]


def program(path: str) -> Program:
    """Return the trainable of a program.

    Raises:
        ProgramError: There is no such file, or it is neither Python nor executable.

    """
    file = Path(path)
    if not file.is_file():
        raise ProgramError(f"no program {path!r} in {Path.cwd()}")
    if file.suffix != ".py" and not os.access(file, os.X_OK):
        raise ProgramError(f"{path} is not executable; `chmod +x {path}` makes it so")
    return Program(path)


@contextmanager
def _running(
    command: list[str], config: TrialConfig
) -> Iterator[tuple[subprocess.Popen[str], deque[str]]]:
    """Run the program in the block, with the last lines of its stderr; end it with the block."""
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        PROGRAM_TRIAL: json.dumps(config.to_dict()),
    }
    errors: deque[str] = deque(maxlen=20)
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="backslashreplace",
        env=environment,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        copying = threading.Thread(target=_copy, args=(process.stderr, errors), daemon=True)
        copying.start()
        try:
            yield process, errors
        finally:
            _end(process)
            copying.join(_GRACE_S)


def _copy(stream: IO[str], last: deque[str]) -> None:
    for line in stream:
        last.append(line)
        sys.stderr.write(line)


def _end(process: subprocess.Popen[str]) -> None:
    """End the program and its child processes."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(_GRACE_S)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _metrics(line: str) -> Mapping[str, Any] | None:
    """Return the numbers of a line of JSON; None for any other line."""
    if not line.lstrip().startswith("{"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    special = {"checkpoint", "checkpoint_sha256", "facts"}
    return {
        name: value
        for name, value in found.items()
        if name in special or (isinstance(value, int | float) and not isinstance(value, bool))
    }
