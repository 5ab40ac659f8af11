"""Settings for starting the trials of a run and for reporting on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from samtune.terminal import say


class LaunchOptions(TypedDict, total=False):
    """Options of everything that trains: `samtune.run`, `Run.resume` and `Run.confirm`."""

    address: str | None
    storage: str | None
    ship_code: bool
    log: Sequence[str]
    hook: str | None
    progress: bool
    cut_short: Callable[[Path, int], None]


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
        tell: Called with each sentence about the run.
        cut_short: Called with the run's folder and the exit code before the process ends because
            Ray does not let go of it after a stop. Until then the run is whole.
    """

    address: str | None = None
    storage: str | None = None
    ship_code: bool = False
    log: Sequence[str] = ()
    hook: str | None = None
    progress: bool = True
    tell: Callable[[str], None] = say
    cut_short: Callable[[Path, int], None] = lambda folder, code: None
