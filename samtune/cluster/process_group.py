"""Keep Ray out of this process's group, so that trials can finish an epoch after a signal.

`timeout`, job schedulers and a closing terminal send a signal to a process and its whole group.
Ray and its workers end at once on SIGTERM, in the middle of an epoch.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def in_another_group() -> Iterator[None]:
    """Start the processes of the block in another process group than this process's.

    Two cases are left as they are: a session leader cannot leave its group, and the terminal's
    foreground group would not get a Ctrl-C during the block. Ray blocks SIGINT in its processes.
    """
    ours = os.getpgrp()
    if os.getsid(0) == os.getpid() or _in_foreground(ours):
        yield
        return
    _join_another(ours)
    try:
        yield
    finally:
        # The group is gone where this process was its last member.
        with contextlib.suppress(OSError):
            os.setpgid(0, ours)


def _join_another(ours: int) -> None:
    if ours != os.getpid():
        os.setpgid(0, 0)
        return
    # The group's leader can only join a group that exists: that of a short-lived child.
    leader = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE, process_group=0
    )
    os.setpgid(0, leader.pid)
    leader.communicate(b"\n")


def _in_foreground(group: int) -> bool:
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == group
    except OSError:
        return False
    finally:
        os.close(terminal)
