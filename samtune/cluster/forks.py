"""Trial hosts: Ray's workers for CPU trials, forked from a process that has all of it loaded.

A new worker loads Ray, Ray Tune, torch and torch's compiler before it trains, which takes
CPU-seconds and hundreds of megabytes; the forks of one process that has them share both. So a
command that trains forks a nursery once it has imported them and before it starts Ray, and has
Ray start `launcher.py` for each worker, and for its two agents, which load Ray as well. That asks
the nursery for a fork which becomes the worker in all but its process id, and the two end
together. It needs Linux; workers on other nodes and for trials with GPUs are Ray's own, and with
`SAMTUNE_HOSTS=0` all are.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import secrets
import select
import shlex
import signal
import socket
import struct
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any, NoReturn

from threadpoolctl import threadpool_limits

from samtune.space.trainable import uncollected

# They have threads, which a fork would not have; Ray's are started with a cluster.
_THREADED = frozenset({"ray", "jax", "tensorflow"})
_FIRST_JOB = "01000000"


@contextmanager
def nursery(preload: Sequence[str] = ()) -> Iterator[str | None]:
    """Inside the block workers are to be had at the address that it yields; None where none are.

    To be entered once the trainables are imported, and before anything starts a thread.
    """
    # In the abstract namespace, so that no file is left behind; others are refused by their user.
    address = f"samtune-{secrets.token_hex(16)}"
    wanted = os.environ.get("SAMTUNE_HOSTS") != "0"
    threads = threading.active_count() > 1 or _THREADED & sys.modules.keys()
    listener = _listener(address) if wanted and not threads else None
    setup = _loaded(preload) if listener is not None else None
    if listener is None or setup is None:
        yield None
        return
    lifeline, ours = os.pipe()
    with warnings.catch_warnings():
        # Of OpenBLAS's threads and an allocator's, which are made anew in a child.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        _until_the_end(_Nursery(listener, lifeline, setup).serve)
    listener.close()
    os.close(lifeline)
    # What was imported stays to the end.
    gc.freeze()
    try:
        yield address
    finally:
        os.close(ours)
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


def _listener(address: str) -> socket.socket | None:
    """None where the system has not all that a nursery needs."""
    try:
        os.close(os.pidfd_open(os.getpid()))
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"\0{address}")
    except (AttributeError, OSError):
        return None
    listener.listen()
    return listener


def _loaded(preload: Sequence[str]) -> Any:
    """What Ray sets up a worker by, once all that one imports is; None where Ray has another."""
    # Ray reads the ids of a worker's job and of its daemon when it is imported, and never again.
    # In a Ray of its own a command's job is the first. A worker ends itself when the process with
    # the other id is gone; the command does for that.
    ids = {"RAY_JOB_ID": _FIRST_JOB, "RAY_RAYLET_PID": str(os.getpid())}
    before = {name: os.environ.get(name) for name in ids}
    actor: Any = None
    kept: Any = None
    os.environ.update(ids)
    try:
        actor = import_module("ray.actor")
        # An actor class that is defined draws one of Ray's random numbers, and all forks would
        # draw the same ones from then on.
        kept = getattr(actor, "ActorClassID", None)
        actor.ActorClassID = SimpleNamespace(from_random=lambda: kept(os.urandom(kept.size())))
        with uncollected():
            for name in preload:
                import_module(name)
            setup = import_module("ray._private.workers.setup_worker")
    except ImportError:
        return None
    finally:
        if kept is not None:
            actor.ActorClassID = kept
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value
    needed = ("parser", "RuntimeEnvContext", "Language")
    return setup if all(hasattr(setup, name) for name in needed) else None


def _until_the_end(of_process: Callable[[], NoReturn]) -> NoReturn:
    """A forked process must not return into what its parent was about to do."""
    # What the parent has is not for a child to tidy up.
    gc.freeze()
    try:
        of_process()
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(end.code if isinstance(end.code, int) else end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


class _Nursery:
    """The process that is forked; its command's end, however it comes, closes `lifeline`."""

    def __init__(self, listener: socket.socket, lifeline: int, setup: Any) -> None:
        self._listener = listener
        self._lifeline = lifeline
        self._setup = setup
        self._poll = select.poll()
        # Workers by the descriptors that tell of their end, and of their launchers' end.
        self._ended: dict[int, tuple[int, socket.socket]] = {}
        self._orphaned: dict[int, int] = {}

    def serve(self) -> NoReturn:
        # A Ctrl-C in a terminal is for the command, which lets trials end in their own time.
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, lambda *_: self._end())
        self._forget_files()
        if "torch" in sys.modules:
            # Torch imports its compiler with the first optimizer.
            with uncollected():
                import torch._dynamo  # noqa: F401
        drawn = _drawn_by_a_fork()
        self._poll.register(self._listener, select.POLLIN)
        self._poll.register(self._lifeline, select.POLLIN)
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor == self._lifeline:
                    self._end()
                elif descriptor == self._listener.fileno():
                    self._fork(drawn)
                elif descriptor in self._orphaned:
                    os.kill(self._orphaned[descriptor], signal.SIGKILL)
                    self._poll.unregister(descriptor)
                elif descriptor in self._ended:
                    self._bury(descriptor)

    def _forget_files(self) -> None:
        """The command's files, locks among them, are not to be held open by others."""
        kept = sorted({self._listener.fileno(), self._lifeline})
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(nothing, standard)
        for low, high in zip([2, *kept], [*kept, os.sysconf("SC_OPEN_MAX")], strict=True):
            os.closerange(low + 1, high)

    def _fork(self, drawn: bytes) -> None:
        launcher, _ = self._listener.accept()
        who = launcher.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        if struct.unpack("3i", who)[1] != os.getuid():
            launcher.close()
            return
        try:
            _, standard, *_ = socket.recv_fds(launcher, 1, 3)
            with launcher.makefile() as stream:
                asked = json.loads(stream.readline())
        except (OSError, ValueError):
            # It is gone again.
            launcher.close()
            return
        pid = os.fork()
        if pid == 0:
            _until_the_end(partial(_process, asked, standard, self._setup, drawn))
        with suppress(OSError):
            launcher.send(b"\0")
        for descriptor in standard:
            os.close(descriptor)
        ended = os.pidfd_open(pid)
        self._ended[ended] = pid, launcher
        self._orphaned[launcher.fileno()] = pid
        self._poll.register(ended, select.POLLIN)
        self._poll.register(launcher, select.POLLRDHUP)

    def _bury(self, ended: int) -> None:
        pid, launcher = self._ended.pop(ended)
        os.waitpid(pid, 0)
        self._poll.unregister(ended)
        os.close(ended)
        del self._orphaned[launcher.fileno()]
        with suppress(KeyError):
            self._poll.unregister(launcher)
        # The launcher hears of it by this, whoever else holds the connection.
        with suppress(OSError):
            launcher.shutdown(socket.SHUT_RDWR)
        launcher.close()

    def _end(self) -> NoReturn:
        for pid, _ in self._ended.values():
            os.kill(pid, signal.SIGKILL)
        os._exit(0)


def _drawn() -> bytes:
    import ray

    drawn: bytes = ray.NodeID.from_random().binary()
    return drawn


def _drawn_by_a_fork() -> bytes:
    result, sent = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(sent, _drawn())
        os._exit(0)
    os.close(sent)
    with os.fdopen(result, "rb") as file:
        drawn = file.read()
    os.waitpid(pid, 0)
    return drawn


def _process(asked: dict[str, Any], standard: list[int], setup: Any, drawn: bytes) -> NoReturn:
    """Becomes what a launcher was started for; `drawn` is a random number of another fork's."""
    # Ray may signal a worker's whole process group.
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for descriptor, sent in enumerate(standard):
        os.dup2(sent, descriptor)
    # What is the nursery's, other workers' launchers among it.
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(each, "w" if each else "r", 1, closefd=False) for each in range(3)
    )
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    told, program = setup.parser.parse_known_args(asked["words"])
    if told.language is not None:
        _set_up(setup, told, program, drawn)
    # Ray read its settings when it was imported, in another environment.
    sys.modules["ray"]._raylet.Config.initialize("")
    sys.argv = program
    runpy.run_path(program[0], run_name="__main__")
    raise SystemExit


def _set_up(setup: Any, told: Any, program: list[str], drawn: bytes) -> None:
    """Makes this process a worker's; where a fork cannot be one, it becomes a new Python."""
    context = setup.RuntimeEnvContext.deserialize(told.serialized_runtime_env_context or "{}")
    fits = os.environ.get("RAY_JOB_ID") == _FIRST_JOB and drawn != _drawn()
    match shlex.split(" ".join(context.command_prefix)):
        case ["cd", folder, "&&"] if fits:
            os.chdir(folder)
        case _:
            context.exec_worker(program, setup.Language.Value(told.language))
    os.environ.update(context.env_vars)
    _keep_to(os.environ.get("OMP_NUM_THREADS", ""))


def _keep_to(threads: str) -> None:
    """What libraries read when they are loaded, which was before Ray gave the worker its share."""
    if threads.isdigit():
        threadpool_limits(int(threads))
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(int(threads))
