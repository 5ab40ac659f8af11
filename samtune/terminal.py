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
    """Return a console for standard output, or for standard error."""
    # A command that prints no table does not import rich.
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(stderr=stderr, highlight=False, width=_WIDTH_OF_A_LOG)
    return console
