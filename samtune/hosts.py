"""Trial hosts: processes that train CPU trials, forked from one that has torch loaded.

A new process loads torch and its compiler before it trains, which takes CPU-seconds and hundreds
of megabytes; a fork of one that has them shares both. So a command that trains forks a nursery
before it starts Ray. Each of Ray's workers asks that for a host of its own, hands it one trial
after the other, and is what Tune sees. The two end together: the nursery kills a host whose
worker is gone, and a worker whose host is gone kills itself. It needs Linux; elsewhere, on other
nodes and where trials have GPUs the workers train, and with `SAMTUNE_HOSTS=0`.
"""

from __future__ import annotations

import gc
import json
import os
import secrets
import select
import signal
import socket
import struct
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NoReturn

from threadpoolctl import threadpool_limits

from samtune.outcome import failure
from samtune.run_folder import alone_in
from samtune.space import resolve
from samtune.trial import TrialConfig, running

# They have threads, which a fork would not have.
_THREADED = frozenset({"ray", "jax", "tensorflow"})


@contextmanager
def nursery() -> Iterator[str | None]:
    """Inside the block hosts are to be had at the address that it yields; None where none are.

    To be entered once the trainables are imported, and before anything starts a thread.
    """
    # In the abstract namespace, so that no file is left behind; others are refused by their user.
    address = f"\0samtune-{secrets.token_hex(16)}"
    wanted = os.environ.get("SAMTUNE_HOSTS") != "0"
    threads = threading.active_count() > 1 or _THREADED & sys.modules.keys()
    listener = _listener(address) if wanted and not threads else None
    if listener is None:
        yield None
        return
    lifeline, ours = os.pipe()
    with warnings.catch_warnings():
        # Of OpenBLAS's threads, which are made anew in a child.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        _until_the_end(_Nursery(listener, lifeline).serve)
    listener.close()
    os.close(lifeline)
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
        listener.bind(address)
    except (AttributeError, OSError):
        return None
    listener.listen()
    return listener


def _until_the_end(of_process: Callable[[], NoReturn]) -> NoReturn:
    """A forked process must not return into what its parent was about to do."""
    # What the parent has is not for a child to tidy up.
    gc.freeze()
    try:
        of_process()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


class _Nursery:
    """The process that forks hosts; its command's end, however it comes, closes the `lifeline`."""

    def __init__(self, listener: socket.socket, lifeline: int) -> None:
        self._listener = listener
        self._lifeline = lifeline
        self._poll = select.poll()
        # Hosts by the descriptors that tell of their end, and of their workers' end.
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
            import torch._dynamo  # noqa: F401
        self._poll.register(self._listener, select.POLLIN)
        self._poll.register(self._lifeline, select.POLLIN)
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor == self._lifeline:
                    self._end()
                elif descriptor == self._listener.fileno():
                    self._fork()
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

    def _fork(self) -> None:
        worker, _ = self._listener.accept()
        who = worker.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        if struct.unpack("3i", who)[1] != os.getuid():
            worker.close()
            return
        pid = os.fork()
        if pid == 0:
            _until_the_end(partial(_host, worker))
        ended = os.pidfd_open(pid)
        self._ended[ended] = pid, worker
        self._orphaned[worker.fileno()] = pid
        self._poll.register(ended, select.POLLIN)
        self._poll.register(worker, select.POLLRDHUP)

    def _bury(self, ended: int) -> None:
        pid, worker = self._ended.pop(ended)
        os.waitpid(pid, 0)
        self._poll.unregister(ended)
        os.close(ended)
        del self._orphaned[worker.fileno()]
        with suppress(KeyError):
            self._poll.unregister(worker)
        # The worker hears of it by this.
        worker.close()

    def _end(self) -> NoReturn:
        for pid, _ in self._ended.values():
            os.kill(pid, signal.SIGKILL)
        os._exit(0)


def _host(worker: socket.socket) -> NoReturn:
    """Trains what its worker hands it until that is gone."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _, output, *_ = socket.recv_fds(worker, 1, 2)
    for standard, descriptor in enumerate(output, 1):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    sys.stdout, sys.stderr = (os.fdopen(each, "w", 1, closefd=False) for each in (1, 2))
    messages = Messages(worker)
    place = messages.next()
    os.environ.clear()
    os.environ.update(place["environment"])
    os.chdir(place["folder"])
    _keep_to(place["environment"].get("OMP_NUM_THREADS", ""))
    while True:
        messages.send({"failure": _trained(messages.next(), messages)})


def _keep_to(threads: str) -> None:
    """What libraries read when they are loaded, which was before Ray gave the worker its share."""
    if threads.isdigit():
        threadpool_limits(int(threads))
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(int(threads))


class _Stopped(BaseException):
    """The worker was told to stop the trial."""


def _trained(config: Mapping[str, Any], messages: Messages) -> dict[str, Any] | None:
    """Runs the trainable; returns what went wrong."""

    def send(report: dict[str, Any]) -> None:
        messages.send({"report": report})
        if not messages.next():
            raise _Stopped

    sys.path.extend(path for path in config["path"] if path not in sys.path)
    trial = TrialConfig.from_dict(config["trial"])
    try:
        trainable = resolve(trial.trainable)
        with alone_in(trial.checkpoint_dir), running(trial, send):
            trainable(trial)
    except _Stopped:
        pass
    except Exception as error:
        return failure(error)
    return None


class Messages:
    """JSON lines between a worker and its host."""

    def __init__(self, connection: socket.socket) -> None:
        self._stream = connection.makefile("rwb")

    def send(self, message: Any) -> None:
        try:
            self._stream.write(json.dumps(message).encode() + b"\n")
            self._stream.flush()
        except BrokenPipeError:
            _follow()

    def next(self) -> Any:
        line = self._stream.readline()
        return json.loads(line) if line.endswith(b"\n") else _follow()


def _follow() -> NoReturn:
    """Ends this process as the other one has ended: without another word."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


_mine: Messages | None = None


def mine(address: str | None) -> Messages | None:
    """This worker's host, asked for at its first trial; None where the nursery has none."""
    global _mine
    if _mine is None and address is not None:
        with suppress(OSError):
            _mine = _hired(address)
    return _mine


def train(
    host: Messages, config: Mapping[str, Any], send: Callable[[dict[str, Any]], None]
) -> dict[str, Any] | None:
    """Has the host train a trial and hands its reports to `send`.

    Returns what went wrong, as `failure` does. What `send` raises ends the trial.
    """
    host.send({"trial": config["trial"], "path": config["path"]})
    while True:
        answer = host.next()
        if "report" not in answer:
            went_wrong: dict[str, Any] | None = answer["failure"]
            return went_wrong
        try:
            send(answer["report"])
        except BaseException:
            host.send(False)
            host.next()
            raise
        host.send(True)


def _hired(address: str) -> Messages:
    """A host of this process's own, with its environment, folder, standard output and error."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    socket.send_fds(connection, [b"\0"], [1, 2])
    host = Messages(connection)
    host.send({"environment": dict(os.environ), "folder": os.getcwd()})
    return host
