"""A program in place of NVIDIA's `nvidia-cuda-mps-control`."""

from __future__ import annotations

import sys
from pathlib import Path

from samtune.cluster.mps import CONTROL

# Like NVIDIA's, it leaves the caller's session and keeps its log open. It notes what it is told.
_PROGRAM = """#!{python}
import os, sys, time
pipe, log = (os.environ[f"CUDA_MPS_{{word}}_DIRECTORY"] for word in ("PIPE", "LOG"))
told = sys.argv[1:] or sys.stdin.read().splitlines()
seen = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
with open({calls!r}, "a") as calls:
    print(*told, f"sees {{seen}}", sep="; ", file=calls)
{more}
pid = os.path.join(pipe, "pid")
if told == ["-d"]:
    if child := os.fork():
        os.waitpid(child, 0)
        sys.exit()
    os.setsid()
    if daemon := os.fork():
        for name in (pid, {calls!r} + "-pids"):
            with open(name, "a") as file:
                print(daemon, file=file)
        os._exit(0)
    kept = open(os.path.join(log, "control.log"), "w")
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    os.dup2(1, 2)
    time.sleep(300)
elif told == ["quit"]:
    os.kill(int(open(pid).read()), 15)
"""


def install(folder: Path, more: str = "") -> Path:
    """Write the program into a folder; return the file that gets a line for each call.

    The ids of its daemons are in a file of the same name and `-pids`. `more` is code that it runs
    after it has noted a call.
    """
    calls, program = folder / "calls", folder / CONTROL
    program.write_text(_PROGRAM.format(python=sys.executable, calls=str(calls), more=more))
    program.chmod(0o755)
    return calls
