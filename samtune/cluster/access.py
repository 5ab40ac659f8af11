"""Checks before Ray is started or joined: who may connect to it, and whether it answers."""

from __future__ import annotations

import os
import secrets
import socket

from samtune.record.folder import RunError

# A cluster that takes longer to accept a connection is of no use to a sweep.
_ANSWER_S = 5.0


def protect() -> None:
    """Give a Ray of our own a secret token, so that only this command can use it.

    Ray listens on all interfaces. Without a token, anyone who can connect to it can run code.

    Raises:
        RunError: the user has turned tokens off where others could connect (exit code 5).
    """
    if os.environ.get("RAY_AUTH_MODE") == "disabled":
        _refuse_open_ray()
    # Without one in the environment, Ray would write a token into the user's home folder.
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _refuse_open_ray() -> None:
    if os.environ.get("SAMTUNE_ALLOW_OPEN_RAY"):
        return
    if any(not name.startswith("lo") for _, name in socket.if_nameindex()):
        raise RunError(
            "RAY_AUTH_MODE=disabled would let everyone who reaches this machine run code on it; "
            "unset it, or say --allow-open-ray",
            exit_code=5,
        )


def answers(address: str) -> None:
    """Check that something accepts connections at a Ray's address.

    Ray itself would try for minutes and print its own lines about it.

    Raises:
        RunError: nothing answers at `host:port` (exit code 5).
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise RunError(
            f"no Ray answers at {address} ({why}); `ray start --head` on that machine starts one "
            "and prints its address, and without --address samtune starts its own here",
            exit_code=5,
        ) from None
