"""Settings for starting the trials of a run and for reporting on them."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from samtune.record.folder import RunError
from samtune.terminal import say


class LaunchOptions(TypedDict, total=False):
    """Options of everything that trains: `samtune.run`, `Run.resume` and `Run.confirm`."""

    address: str | None
    storage: str | None
    ship_code: bool
    log: Sequence[str]
    hook: str | None
    progress: bool
    time_limit: float | str | None
    cut_short: Callable[[Path, int], None]


_TIME = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_SECONDS = (86400, 3600, 60, 1)


def seconds_of(time: float | str) -> float:
    """Return a time such as `8h`, `1d12h` or `90m` in seconds; a number is seconds.

    Raises:
        RunError: It is no time above 0 (exit code 2).
    """
    seconds = 0.0
    if isinstance(time, int | float) or time.isdecimal():
        seconds = float(time)
    elif found := _TIME.fullmatch(time):
        counts = (int(count or 0) for count in found.groups())
        seconds = float(sum(n * each for n, each in zip(counts, _SECONDS, strict=True)))
    if not seconds > 0:
        raise RunError(f"{time!r} is no time limit; write 8h, 90m, 1d12h or 300s", exit_code=2)
    return seconds


@dataclass(frozen=True)
class Launch:
    """Settings for starting the trials of a run and for reporting on them.

    Attributes:
        address: Address of a running Ray cluster; None starts a Ray on this machine.
        storage: URL or folder to which the run is copied once a minute.
        ship_code: Whether to send samtune and the user's code to the nodes of a cluster.
        log: Any of `tensorboard`, `wandb` and `mlflow`.
        hook: `module:function`, called with a dict for each report.
        progress: Whether progress is shown on standard error.
        time_limit: Seconds of work after which the search begins no more trials, counted over all
            resumes; None leaves it as it was.
        tell: Called with each sentence about the run.
        cut_short: Called with the run's folder and the exit code before the process is ended, if
            Ray does not end its trials after a stop. The run is whole by then.
    """

    address: str | None = None
    storage: str | None = None
    ship_code: bool = False
    log: Sequence[str] = ()
    hook: str | None = None
    progress: bool = True
    time_limit: float | str | None = None
    tell: Callable[[str], None] = say
    cut_short: Callable[[Path, int], None] = lambda folder, code: None

    @classmethod
    def of(cls, options: LaunchOptions) -> Launch:
        """Return the settings of these options.

        Raises:
            RunError: The time limit is none (exit code 2), or Ray cannot work in this Python (5).
        """
        if sys.flags.optimize > 1:
            raise RunError(
                "Python runs without docstrings (PYTHONOPTIMIZE=2 or -OO), and Ray cannot be "
                "imported then; unset PYTHONOPTIMIZE, or set it to 1",
                exit_code=5,
            )
        launch = cls(**options)
        if launch.time_limit is not None:
            launch = dataclasses.replace(launch, time_limit=seconds_of(launch.time_limit))
        if launch.storage is not None and "://" not in launch.storage:
            # Workers have a working folder of their own.
            return dataclasses.replace(launch, storage=str(Path(launch.storage).absolute()))
        return launch
