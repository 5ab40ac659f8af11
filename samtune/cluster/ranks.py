"""A trial on several processes: rank 0 is Tune's own actor, the others live beside it.

Tune gives such a trial a placement group of one bundle a rank. Rank 0 keeps the others from trial
to trial, as Tune keeps rank 0, so that only a worker's first trial pays for their start. They end
with it, and with any failure of one of them: the trial is tried again by a group of new processes.
"""

from __future__ import annotations

import os
import queue
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from samtune.cluster.nodes import death
from samtune.errors import SamtuneError
from samtune.record.outcome import Cause, failure
from samtune.space.search_space import resolve
from samtune.trial import TrialConfig, running

Tell = Callable[[bool], None]

# How long a rank may take to find out that another one is gone, once Ray knows.
_GRACE_S = 20.0
# What a collective says in the ranks that are left: the cause is elsewhere.
_CONSEQUENCE = re.compile(
    r"gloo|NCCL|c10d|[Cc]onnection (closed|reset|refused)|[Bb]roken pipe|TCPStore|[Tt]imed? ?out"
)


class RankFailure(SamtuneError):
    """A rank other than 0 failed; `cause` and `again` are as of `samtune.outcome`."""

    def __init__(self, message: str, cause: Cause, again: bool) -> None:
        super().__init__(message)
        self.cause: Cause = cause
        self.again = again


class _Stopped(BaseException):
    """Rank 0 was told to stop: this rank ends as well."""


class Rank:
    """One of the other processes; `go_on` answers a report while `train` runs."""

    def __init__(self) -> None:
        self._answers: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    def go_on(self, yes: bool) -> None:
        self._answers.put(yes)

    def train(
        self, config: Mapping[str, Any], environment: Mapping[str, str]
    ) -> dict[str, Any] | None:
        """Runs the trainable; returns what went wrong."""
        self._answers = queue.SimpleQueue()
        sys.path.extend(path for path in config["path"] if path not in sys.path)
        trial = TrialConfig.from_dict(config["trial"])
        try:
            with _environment(environment), running(trial, self._await_answer):
                resolve(trial.trainable)(trial)
        except _Stopped:
            pass
        except Exception as error:
            return failure(error)
        return None

    def _await_answer(self, report: Mapping[str, Any]) -> None:
        if not self._answers.get():
            raise _Stopped


_others: list[Any] = []


@contextmanager
def ranks(config: Mapping[str, Any], trial: TrialConfig) -> Iterator[Tell]:
    """Inside the block the other ranks of the trial train as well.

    Yields what passes Tune's answer to a report on to them. Raises RankFailure when one of them
    failed, unless rank 0's own exception came first. A rank that is lost while rank 0 hangs in a
    collective costs rank 0 its process after 20 s.
    """
    if trial.workers == 1:
        yield lambda go_on: None
        return
    others = _gathered(trial)
    nodes = [ray.get_runtime_context().get_node_id(), *ray.get([o.node.remote() for o in others])]
    one_node = len(set(nodes)) == 1
    address = "127.0.0.1" if one_node else _own_address()
    rendezvous = store(address)
    environment = {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(rendezvous.port),
        # In torchrun's words: the store is there, and all ranks are its clients.
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": str(trial.workers),
        # Ray shows each process its own devices only.
        "LOCAL_RANK": "0",
    }
    if one_node and sys.platform == "linux":
        # Nothing then listens to the network but the rendezvous.
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    runs = [
        other.train.remote(config, {**environment, "RANK": str(rank)})
        for rank, other in enumerate(others, 1)
    ]

    def tell(go_on: bool) -> None:
        for other in others:
            other.go_on.remote(go_on)

    over = threading.Event()
    threading.Thread(target=_end_if_lost, args=(runs, over), daemon=True).start()
    try:
        with _environment({**environment, "RANK": "0"}):
            yield tell
        _raise_failure(ray.get(runs, timeout=_GRACE_S))
    except SystemExit:
        # Tune has stopped the trial, and they were told so.
        if len(ray.wait(runs, num_returns=len(runs), timeout=_GRACE_S)[0]) < len(runs):
            _disband()
        raise
    except RankFailure:
        _disband()
        raise
    except BaseException as error:
        behind = _behind(error, runs, nodes)
        _disband()
        if behind is error:
            raise
        raise behind from error
    finally:
        over.set()


def _gathered(trial: TrialConfig) -> list[Any]:
    """The other ranks, started by this worker's first trial."""
    if _others and not _alive(_others):
        _disband()
    if not _others:
        actor: Any = ray.remote(Rank)
        here = ray.util.get_current_placement_group()
        assert here is not None, "Tune places a trial of several workers in a group"
        _others.extend(
            actor.options(
                num_cpus=trial.cpus,
                num_gpus=trial.gpus,
                # One that trains, one that answers its reports.
                max_concurrency=2,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    placement_group=here, placement_group_bundle_index=rank
                ),
            ).remote()
            for rank in range(1, trial.workers)
        )
    return _others


def _alive(others: list[Any]) -> bool:
    try:
        ray.get([other.node.remote() for other in others])
    except RayError:
        return False
    return True


def _disband() -> None:
    for other in _others:
        ray.kill(other)
    _others.clear()


def _raise_failure(ends: list[dict[str, Any] | None]) -> None:
    for rank, end in enumerate(ends, 1):
        if end is not None:
            told = f"rank {rank}: {end['error']}\n{end['traceback']}"
            raise RankFailure(told, end["cause"], end["again"])


def _behind(error: BaseException, runs: list[Any], nodes: list[str]) -> BaseException:
    """The failure that rank 0's exception is a consequence of, or the exception itself."""
    if not (isinstance(error, RayError) or _CONSEQUENCE.search(str(error))):
        return error
    ready = ray.wait(runs, num_returns=len(runs), timeout=_GRACE_S)[0] if runs else []
    consequences: list[BaseException] = []
    for run in ready:
        rank = runs.index(run) + 1
        try:
            _raise_failure([None] * (rank - 1) + [ray.get(run)])
        except RayError as died:
            told = " ".join(str(died).split())
            return RankFailure(f"rank {rank} died: {told}", death(told, nodes[rank]), True)
        except RankFailure as failed:
            if not _CONSEQUENCE.search(str(failed).splitlines()[0]):
                return failed
            consequences.append(failed)
    # A connection that breaks by itself is tried again as a dead worker is.
    return RankFailure(f"the ranks lost each other: {error}", "worker_died", True)


def _end_if_lost(runs: list[Any], over: threading.Event) -> None:
    """Ends this process if it does not notice that another rank is gone: it may hang on a GPU."""
    waiting = list(runs)
    while waiting and not over.is_set():
        ready, waiting = ray.wait(waiting, timeout=1.0)
        try:
            failed = any(end is not None for end in ray.get(ready))
        except RayError:
            failed = True
        if failed and not over.wait(2 * _GRACE_S):
            os._exit(1)


@contextmanager
def _environment(words: Mapping[str, str]) -> Iterator[None]:
    before = {word: os.environ.get(word) for word in words}
    os.environ.update(words)
    try:
        yield
    finally:
        for word, value in before.items():
            if value is None:
                os.environ.pop(word)
            else:
                os.environ[word] = value


def _own_address() -> str:
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def store(address: str) -> Any:
    """The TCPStore where ranks find each other, bound at once: a free port may soon be taken."""
    from torch import distributed

    return distributed.TCPStore(  # type: ignore[attr-defined]
        address, 0, is_master=True, wait_for_workers=False
    )
