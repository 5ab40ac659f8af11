"""The base class of every error that a user of samtune can meet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class SamtuneError(Exception):
    """A problem that a user can solve.

    Attributes:
        messages: The sentences to show, one per problem.
        exit_code: The exit code of a command that meets this error.
    """

    exit_code: int = 1

    def __init__(self, messages: str | Sequence[str], exit_code: int | None = None) -> None:
        self.messages = [messages] if isinstance(messages, str) else list(messages)
        super().__init__("\n".join(self.messages))
        if exit_code is not None:
            self.exit_code = exit_code

    def __reduce__(self) -> tuple[Any, ...]:
        return _revived, (type(self), self.args), self.__dict__


def _revived(kind: type[SamtuneError], args: tuple[Any, ...]) -> SamtuneError:
    """Return an unpickled error without its __init__, whose arguments differ by subclass."""
    return kind.__new__(kind, *args)
