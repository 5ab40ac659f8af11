"""The display of a sweep: a live table on a terminal, one line per event elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, get_args

from samtune.messages import SEE, clock, knob_list, unit
from samtune.record.rows import State

# `samtune status` needs the words below, but does not need rich.
if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.live import Live

    from samtune.sweep.progress import Progress

_REFRESH_S = 0.5
_MOST_SPACES = 20


class QuietView:
    """A view that shows nothing."""

    def event(self, text: str) -> None:
        """Show nothing."""

    def refresh(self, progress: Progress) -> None:
        """Show nothing."""


class LineView:
    """A view of one line per event, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def event(self, text: str) -> None:
        """Print a line."""
        from rich.text import Text

        self._console.print(Text(text), soft_wrap=True)

    def refresh(self, progress: Progress) -> None:
        """Show nothing: a log has no place for it."""


class TableView:
    """A table that is redrawn twice per second, with the last events above it."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._drawn = 0.0

    def event(self, text: str) -> None:
        """Print a line above the table."""
        from rich.text import Text

        self._live.console.print(Text(text, overflow="ellipsis", no_wrap=True))

    def refresh(self, progress: Progress) -> None:
        """Redraw the table, if it was drawn long enough ago."""
        if time.monotonic() - self._drawn >= _REFRESH_S:
            self._drawn = time.monotonic()
            self._live.update(progress_table(progress), refresh=True)


@contextmanager
def view(console: Console, *, quiet: bool = False) -> Iterator[QuietView | LineView | TableView]:
    """Yield the view that fits the console."""
    from rich.live import Live

    if quiet:
        yield QuietView()
    elif console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            yield TableView(live)
    else:
        yield LineView(console)


def progress_table(progress: Progress) -> Group:
    """Return a table of the trials by state, the budget used, and each space's rungs and best."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    left = progress.seconds_left
    head = Text.assemble(
        (f"{progress.run} ", "bold"),
        f"{progress.stage}  {progress.ended}/{progress.total} trials  ",
        f"{sum(progress.used.values()):.0f} {unit(progress.kind)} used  ",
        f"{clock(progress.seconds)} gone, ",
        f"about {clock(left)} left" if left is not None else "time left not known yet",
    )
    counts = [(state, progress.states.get(state, 0)) for state in get_args(State)]
    states = "  ".join(f"{state} {count}" for state, count in counts if count)
    table = Table(box=None, pad_edge=False)
    for heading in ("space", f"best {progress.metric}", "of trial", "knobs", "rungs"):
        table.add_column(heading, overflow="fold")
    shown = list(range(len(progress.studies)))
    if len(shown) > _MOST_SPACES:
        # Of a study, the searches that have come furthest last.
        shown = sorted([*progress.best][-_MOST_SPACES:])
    for study in shown:
        name = progress.studies[study]
        best, rungs = progress.best.get(study), progress.rungs.get(study)
        table.add_row(
            escape(name),
            f"{best.value:.4f}" if best else "-",
            str(best.trial) if best else "-",
            escape(knob_list(best.knobs)) if best else "-",
            "  ".join(
                f"{level:g}: {count}"
                for level, count in zip(rungs.milestones, rungs.occupancy, strict=True)
            )
            if rungs
            else "-",
        )
    ends = [Text(f"{progress.studies[k]} ended early  {why}") for k, why in progress.ends.items()]
    meaning = [Text(SEE, "dim")] if progress.kind == "compute" else []
    return Group(head, Text(states), table, *ends, *meaning)
