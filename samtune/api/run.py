"""A run from Python: start it, read it while it runs, stop it, continue it and confirm it."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from samtune.api.best import Best, best_of
from samtune.api.launch import Launch, LaunchOptions
from samtune.api.spaces import Reference, each_of
from samtune.messages import nearest
from samtune.record.folder import RunError, is_locked
from samtune.record.record import Record
from samtune.sweep.stop import ask_to_stop, withdraw
from samtune.terminal import say
from samtune.views.status import status_of

if TYPE_CHECKING:
    import pandas as pd

    from analysis.charts.figure import Figure
    from analysis.charts.palette import Theme
    from analysis.charts.sample import By
    from samtune.api.report import Page
    from samtune.api.sharpness import Settings
    from samtune.api.stages import Ended

_LOOK_S = 0.2


class Interrupted(KeyboardInterrupt):
    """A signal has stopped a run cleanly: everything is on record.

    Attributes:
        run: The run, which `run.resume()` continues.
    """

    def __init__(self, run: Run, number: int) -> None:
        super().__init__(
            f"{signal.Signals(number).name} stopped {run.name}; all of it is on record: "
            f"samtune.load({str(run.folder)!r}).resume() continues"
        )
        self.run = run


class Run:
    """A run in its folder.

    Attributes:
        folder: The folder that holds everything about the run.
        exit_code: The exit code that the equivalent command would have: 0 done, 1 failed, 3 done
            but some trials failed, 75 stopped; 0 for a run that was only loaded.
    """

    def __init__(self, folder: Path, exit_code: int = 0) -> None:
        """Open the run in `folder`, which `samtune.run` and `samtune.load` do for you."""
        self.folder = folder
        self.exit_code = exit_code

    def __repr__(self) -> str:
        """Return the name and the folder."""
        return f"<samtune run {self.name!r} in {self.folder}>"

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.name

    @property
    def trials(self) -> pd.DataFrame:
        """One row per trial of the search, as of now."""
        return self._table("trials")

    @property
    def curves(self) -> pd.DataFrame:
        """One row per report, as of now."""
        return self._table("curves")

    @property
    def repeats(self) -> pd.DataFrame:
        """One row per repeat on fresh seeds, as of now."""
        return self._table("repeats")

    @property
    def pareto(self) -> pd.DataFrame:
        """The rows of `trials` on the Pareto front of their search; none where it has one aim."""
        from analysis.pareto import front

        return front(self._table("trials"))

    @property
    def leaderboard(self) -> pd.DataFrame:
        """One row per space, the best first, as of now."""
        from analysis.verdicts import compare

        with tempfile.TemporaryDirectory() as scratch:
            self.export(scratch)
            return compare([Path(scratch)])[0]

    @property
    def pairs(self) -> pd.DataFrame:
        """One row per pair of confirmed spaces, with the paired comparison, as of now."""
        return self._table("pairs")

    def best(self, space: str | None = None) -> Best:
        """Return the winning configuration.

        Args:
            space: Name of a space; without it, the best of all spaces.

        Raises:
            RunError: There is no such space (exit code 2), or no trial was completed.
        """
        with self._record() as record:
            return best_of(record, space)

    def status(self) -> dict[str, Any]:
        """Return the progress of the run: what `samtune status --json` prints for one run."""
        with self._record() as record:
            return status_of(record)

    def is_running(self) -> bool:
        """Return whether a process is writing this run."""
        return is_locked(self.folder)

    def stop(self, timeout: float = 30.0) -> bool:
        """Ask the process that runs this to stop, and wait until it has stopped.

        Works from any process or machine that shares the folder.

        Args:
            timeout: Seconds to wait.

        Returns:
            Whether nothing runs any more.
        """
        if not self.is_running():
            return True
        # The record itself is left alone: another machine may be writing it.
        ask_to_stop(self.folder)
        deadline = time.monotonic() + timeout
        while self.is_running():
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_S)
        withdraw(self.folder)
        return True

    def resume(
        self,
        *,
        confirm: bool = True,
        accept_version_change: bool = False,
        **options: Unpack[LaunchOptions],
    ) -> Run:
        """Continue the run to its end; interrupted trials continue from their checkpoints.

        Args:
            confirm: Whether to confirm the winners, if the run was begun so.
            accept_version_change: Whether to continue although versions or code have changed.
            options: The options of `samtune.run`.

        Returns:
            The run itself.
        """
        # Ray takes two seconds to import, and code that only reads a run does not need it.
        from samtune.api import training

        launch = Launch.of(options)
        folder, ended = training.resume(
            self.folder.parent,
            self.name,
            launch,
            confirm=confirm,
            accept_version_change=accept_version_change,
        )
        return concluded(folder, ended)

    def add(
        self,
        *spaces: Reference | Sequence[Reference],
        set: Mapping[str, Any] | Sequence[str] = (),
        confirm: bool = True,
        top: int | None = None,
        seeds: int | None = None,
        **options: Unpack[LaunchOptions],
    ) -> Run:
        """Add spaces to the run, or trials to all of its spaces, and run what is new.

        The task, budget, search, rungs and resources of an added space are those of the run.
        What has been done is not done again.

        Args:
            spaces: As of `samtune.run`.
            set: `{"budget.trials": 64}` is the new number of trials of each space; nothing else
                can change in a run.
            confirm: Whether to confirm the winners, if the run was begun so.
            top: How many configurations to confirm per space; without it, as before.
            seeds: How many fresh seeds each; without it, as before.
            options: As of `samtune.run`.

        Returns:
            The run itself.

        Raises:
            SamtuneError: A space is wrong, or the run cannot grow so.
        """
        from samtune.api import training
        from samtune.api.seed_plan import Asked

        asked = Asked(confirm=confirm, top=top, seeds=seeds)
        more, launch = [*each_of(spaces)], Launch.of(options)
        return concluded(*training.grow(self.folder.parent, self.name, more, set, asked, launch))

    def confirm(
        self,
        *,
        top: int | None = None,
        seeds: int | None = None,
        until_decided: bool | None = None,
        max_seeds: int | None = None,
        **options: Unpack[LaunchOptions],
    ) -> Run:
        """Repeat the best configurations on fresh seeds; each repeat opens the test split once.

        Repeats that the run already has are kept, so `seeds=10` after a plan of 5 adds 5. These
        are marked as added, because the plan is on record before test is opened.

        Args:
            top: How many configurations per space; without it, as the space says.
            seeds: How many fresh seeds each; without it, as the run's plan or the space says.
            until_decided: As of `samtune.run`.
            max_seeds: As of `samtune.run`.
            options: As of `samtune.run`.

        Returns:
            The run itself.
        """
        from samtune.api import training
        from samtune.api.seed_plan import Asked

        asked = Asked(True, top, seeds, until_decided, max_seeds)
        ended = training.confirm(self.folder.parent, self.name, asked, Launch.of(options))
        return concluded(*ended)

    def sharpness(self, *rows: str, **settings: Unpack[Settings]) -> pd.DataFrame:
        """Measure the sharpness of the confirmed models; what is on record is not measured again.

        Args:
            rows: Names of rows of the leaderboard; without one, all.
            settings: `samples` (training images, 1024), `m` (images that share a perturbation,
                128), `rho` (radius of the perturbations, 0.1) and `batch_norm` (`eval` or
                `train`).

        Returns:
            The rows of the leaderboard that are measured, with their `sharp_` columns.

        Raises:
            RunError: There is no such row, nothing is confirmed, or a trainable cannot be measured
                (exit code 2).
        """
        from samtune.api.sharpness import measure

        with Record.open(self.folder.parent, self.folder.name) as record:
            for sentence in measure(record, rows, settings, say):
                say(f"not measured: {sentence}")
        board = self.leaderboard.dropna(subset=["sharp_m"])
        return board[board["space"].isin(rows)] if rows else board

    def export(self, folder: str | Path | None = None) -> list[Path]:
        """Write all tables as Parquet and return their paths.

        Args:
            folder: Where to write them; without it, the run's own folder.

        Raises:
            RunError: They cannot be written there (exit code 5).
        """
        from samtune.api.tables import write_tables

        place = self.folder if folder is None else Path(folder)
        try:
            place.mkdir(parents=True, exist_ok=True)
            with self._record() as record:
                return write_tables(record, place)[0]
        except OSError as error:
            raise RunError(
                f"cannot write {error.filename or place}: {error.strerror}; choose another folder",
                exit_code=5,
            ) from None

    def report(self, *others: Run) -> Page:
        """Return a page of HTML about this run, and others, as of now.

        The page shows itself in a notebook, and its `save` writes it as a file.
        """
        from samtune.api.report import report_of

        with ExitStack() as stack:
            records = [stack.enter_context(each._record()) for each in (self, *others)]
            return report_of(records)

    def plot(
        self, kind: str, *, by: By = "space", width: float = 1080, theme: Theme = "light"
    ) -> Figure:
        """Return a chart of the run as of now; it shows itself in a notebook.

        Args:
            kind: A kind that `samtune plot --list` lists, such as `curves`.
            by: What a panel or a line puts together: all trials of a `space`, a `variant`, or a
                `search`.
            width: Width in pixels.
            theme: `light` or `dark`.

        Raises:
            RunError: There is no such kind, or nothing to draw of it (exit code 2).
        """
        from analysis.charts import KINDS, draw

        if kind not in KINDS:
            raise RunError(
                f"no kind of chart is called {kind!r}; {nearest(kind, KINDS)}", exit_code=2
            )
        from samtune.api.report import chart_tables

        with tempfile.TemporaryDirectory() as scratch:
            self.export(scratch)
            tables = chart_tables([Path(scratch)])
        try:
            return draw(kind, tables, width, theme, by)
        except LookupError as error:
            raise RunError(f"{self.name}: {error.args[0]}", exit_code=2) from None

    def _record(self) -> Record:
        return Record.open(self.folder.parent, self.folder.name, read_only=True)

    def _table(self, name: str) -> pd.DataFrame:
        return self._tables([name])[name]

    def _tables(self, names: Sequence[str]) -> dict[str, pd.DataFrame]:
        from samtune.record import tables

        with tempfile.TemporaryDirectory() as scratch:
            self.export(scratch)
            return {
                name: tables.read(Path(scratch, f"{name}.parquet"), name).to_pandas()
                for name in names
            }


def concluded(folder: Path, ended: Ended) -> Run:
    """Return the run that has ended. Raise Interrupted if a signal ended it."""
    run = Run(folder, ended.exit_code)
    if ended.signal is not None:
        raise Interrupted(run, ended.signal)
    return run
