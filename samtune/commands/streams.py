"""Standard output and standard error that fail in sentences.

A character that the locale lacks is escaped. Output that cannot be written (a full disk, `>&-`) is
an error for people. A reader that has read enough, such as `head`, ends the command silently.
Messages that cannot be written are dropped.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import TextIO

from samtune.errors import SamtuneError

# What a shell reports of a command that SIGPIPE has ended.
_READER_HAS_GONE = 141


class OutputError(SamtuneError):
    """Standard output that cannot be written to. Without messages, nobody reads it any more."""

    exit_code = 5


class Stream(io.TextIOBase):
    """A text stream in front of another, which is None where the shell has closed it.

    Args:
        stream: Where the text goes.
        required: If true, text that cannot be written raises OutputError, else it is dropped.
    """

    def __init__(self, stream: TextIO | None, *, required: bool) -> None:
        self._stream = stream
        self._required = required
        # Once broken, always broken: a caller may have hidden the first error.
        self._broken = _error("it is closed") if stream is None else None
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    # A property, because the type of the base has a plain attribute here.
    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream behind."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Return whether the stream behind is a terminal; a closed one is none."""
        behind = self._stream
        return behind is not None and not behind.closed and behind.isatty()

    def fileno(self) -> int:
        """Return the file descriptor of the stream behind."""
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Write `text`. Raises OutputError if that fails and the stream is required."""
        self._pass_on(lambda stream: stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Write what is buffered. Raises OutputError if that fails and it is required."""
        self._pass_on(lambda stream: stream.flush())

    def _pass_on(self, call: Callable[[TextIO], object]) -> None:
        if self._stream is not None and self._broken is None:
            try:
                call(self._stream)
            except BrokenPipeError:
                self._broken = OutputError([], _READER_HAS_GONE)
            except OSError as error:
                self._broken = _error(error.strerror or str(error))
            if self._broken is not None:
                # Python writes at its end what is buffered, and would complain once more.
                with contextlib.suppress(OSError):
                    _redirect_to_nothing(self.fileno())
        if self._broken is not None and self._required:
            raise self._broken


def _error(why: str) -> OutputError:
    return OutputError(f"standard output cannot be written: {why}")


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """Put a Stream in front of standard output and standard error inside the block."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # Otherwise the next file to be opened, such as a record, would get the number.
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    sys.stdout = Stream(sys.stdout, required=True)
    sys.stderr = Stream(sys.stderr, required=False)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _redirect_to_nothing(number: int) -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, number)
    os.close(nothing)
