"""Output for people: lines on standard error, tables on a console."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# A log or a pipe has no width to fit into.
_WIDTH_OF_A_LOG = 240


def say(text: str) -> None:
    """Print a line for people on standard error, unless that is closed."""
    if sys.stderr is not None:
        print(text, file=sys.stderr, flush=True)


def console_for(*, stderr: bool = False) -> Console:
    """Return a console for standard output, or for standard error.

    In a notebook it prints plain lines to the cell: rich's own display there needs ipywidgets for
    a live table, and makes an output of its own for each line.
    """
    # A command that prints no table does not import rich.
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    in_notebook = console.is_jupyter
    if console.is_terminal and not in_notebook:
        return console
    return Console(
        stderr=stderr,
        highlight=False,
        width=None if "COLUMNS" in os.environ else _WIDTH_OF_A_LOG,
        force_jupyter=False,
        # A notebook with FORCE_COLOR would count as a terminal.
        force_terminal=False if in_notebook else None,
    )
