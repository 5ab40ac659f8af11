"""What Ray starts for a worker or an agent: it has the nursery fork one, and ends with it.

A script, run with the words that Ray has for the worker's setup or the agent; see
`samtune/hosts.py`. Without a nursery it turns into those. It imports little, because it is
started for each of them.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

ADDRESS = "SAMTUNE_NURSERY"


def _main(words: list[str]) -> None:
    with socket.socket(socket.AF_UNIX) as nursery:
        if _is_forked(nursery, words):
            # Until one of the two ends: the nursery hears of this one's end as well.
            nursery.recv(1)
            return
    # A worker's setup lies beside its program; an agent has none.
    program = next(Path(word) for word in words if word.endswith(".py"))
    setup = program.with_name("setup_worker.py")
    os.execv(sys.executable, [sys.executable, *([str(setup)] if setup.exists() else []), *words])


def _is_forked(nursery: socket.socket, words: list[str]) -> bool:
    asked = {"words": words, "environment": dict(os.environ), "folder": os.getcwd()}
    try:
        nursery.connect(f"\0{os.environ[ADDRESS]}")
        socket.send_fds(nursery, [b"\0"], [0, 1, 2])
        nursery.sendall(json.dumps(asked).encode() + b"\n")
        return bool(nursery.recv(1))
    except (KeyError, OSError):
        return False


if __name__ == "__main__":
    _main(sys.argv[1:])
