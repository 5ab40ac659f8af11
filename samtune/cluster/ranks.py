"""A trial on several processes: rank 0 is Tune's own actor, the other ranks are actors beside it.

Tune gives such a trial a placement group with one bundle per rank. Rank 0 keeps the other ranks
from trial to trial, as Tune keeps rank 0, so that only the first trial of a worker starts
processes. All ranks end when one of them fails, and new ones repeat the trial.
"""

from __future__ import annotations

import os
import queue
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from samtune.cluster.clean import clean, enter
from samtune.cluster.nodes import death
from samtune.cluster.output import logged
from samtune.errors import SamtuneError
from samtune.record.outcome import Cause, failure
from samtune.space.search_space import resolve
from samtune.trial import TrialConfig, running

Broadcast = Callable[[bool], None]
"""Function that passes the driver's answer, whether the trial continues, to all other ranks."""

# How long a rank may take to notice that another rank is gone, once Ray knows.
_GRACE_S = 20.0
# Parts of the messages of a collective in a surviving rank. The cause is the lost rank.
_CONSEQUENCE = re.compile(
    r"gloo|NCCL|c10d|[Cc]onnection (closed|reset|refused)|[Bb]roken pipe|TCPStore|[Tt]imed? ?out"
)


class RankFailure(SamtuneError):
    """The failure of a rank other than 0.

    Attributes:
        cause: The cause of the end of the attempt.
        again: Whether the trial may be tried again.
    """

    def __init__(self, message: str, cause: Cause, again: bool) -> None:
        super().__init__(message)
        self.cause: Cause = cause
        self.again = again


class _Stopped(BaseException):
    """The driver has stopped the trial, so this rank stops too."""


class Rank:
    """An actor that runs the trainable as a rank other than 0."""

    def __init__(self) -> None:
        self._answers: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def node(self) -> str:
        """Return the id of the node that this rank runs on."""
        return str(ray.get_runtime_context().get_node_id())

    def answer(self, goes_on: bool) -> None:
        """Take the driver's answer to the last report, while `train` runs."""
        self._answers.put(goes_on)

    def train(
        self, config: Mapping[str, Any], environment: Mapping[str, str]
    ) -> dict[str, Any] | None:
        """Run the trainable. Return its failure, or None."""
        self._answers = queue.SimpleQueue()
        trial = TrialConfig.from_dict(config["trial"])
        try:
            enter(config)
            trainable = resolve(trial.trainable)
            with (
                logged(Path(config["log"])),
                clean(trial.seeds),
                _environment(environment),
                running(trial, self._await_answer),
            ):
                trainable(trial)
        except _Stopped:
            pass
        except BaseException as error:
            return failure(error)
        return None

    def _await_answer(self, report: Mapping[str, Any]) -> None:
        if not self._answers.get():
            raise _Stopped


_others: list[Any] = []


@contextmanager
def ranks(config: Mapping[str, Any], trial: TrialConfig) -> Iterator[Broadcast]:
    """Train with all other ranks of the trial inside the block.

    If a rank is lost while rank 0 hangs in a collective, the process of rank 0 ends after 40 s.

    Args:
        config: The configuration that the driver sent.
        trial: The trial in it.

    Yields:
        The function that passes the driver's answer to a report to the other ranks.

    Raises:
        RankFailure: If another rank failed, unless the exception of rank 0 came first.
    """
    if trial.workers == 1:
        yield lambda goes_on: None
        return
    others = _gathered(trial)
    nodes = [ray.get_runtime_context().get_node_id(), *ray.get([o.node.remote() for o in others])]
    # The store is served for as long as it is referred to.
    meeting, environment = _rendezvous(trial.workers, one_node=len(set(nodes)) == 1)
    runs = [
        other.train.remote(config, {**environment, "RANK": str(rank)})
        for rank, other in enumerate(others, 1)
    ]

    def broadcast(goes_on: bool) -> None:
        for other in others:
            other.answer.remote(goes_on)

    over = threading.Event()
    threading.Thread(target=_end_if_lost, args=(runs, over), daemon=True).start()
    try:
        with _environment({**environment, "RANK": "0"}):
            yield broadcast
        _raise_failure(ray.get(runs, timeout=_GRACE_S))
    except SystemExit:
        # The driver has stopped the trial, and the other ranks have its answer.
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
        del meeting


def _rendezvous(size: int, *, one_node: bool) -> tuple[Any, dict[str, str]]:
    """Return the store at which the ranks meet, and the variables of torchrun except RANK."""
    address = "127.0.0.1" if one_node else _own_address()
    meeting = store(address)
    environment = {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(meeting.port),
        # torchrun's variable for a store that is served already: every rank is a client.
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": str(size),
        # Ray shows each process its own devices only.
        "LOCAL_RANK": "0",
    }
    if one_node and sys.platform == "linux":
        # Then only the rendezvous listens to the network.
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    return meeting, environment


def _gathered(trial: TrialConfig) -> list[Any]:
    """Return the other ranks. Start them for the first trial, and after a failure."""
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
                # One thread trains, one takes the answers to its reports.
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
    """Raise the first failure among the ends of ranks 1, 2, ..."""
    for rank, end in enumerate(ends, 1):
        if end is not None:
            message = f"rank {rank}: {end['error']}\n{end['traceback']}"
            raise RankFailure(message, end["cause"], end["again"])


def _behind(error: BaseException, runs: list[Any], nodes: list[str]) -> BaseException:
    """Return the failure of another rank that caused rank 0's exception, or that exception."""
    if not (isinstance(error, RayError) or _CONSEQUENCE.search(str(error))):
        return error
    ready = ray.wait(runs, num_returns=len(runs), timeout=_GRACE_S)[0] if runs else []
    for run in ready:
        rank = runs.index(run) + 1
        try:
            _raise_failure([None] * (rank - 1) + [ray.get(run)])
        except RayError as died:
            words = " ".join(str(died).split())
            cause = death(nodes[rank], of_memory=isinstance(died, OutOfMemoryError))
            return RankFailure(f"rank {rank} died: {words}", cause, True)
        except RankFailure as failed:
            if not _CONSEQUENCE.search(str(failed).splitlines()[0]):
                return failed
    # A broken connection without another cause is retried like a dead worker.
    return RankFailure(f"the ranks lost each other: {error}", "worker_died", True)


def _end_if_lost(runs: list[Any], over: threading.Event) -> None:
    """End this process if it does not notice the loss of another rank: it may hang on a GPU."""
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
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _own_address() -> str:
    return str(ray.util.get_node_ip_address())


def store(address: str) -> Any:
    """Serve a TCPStore on a port that this call binds: a port found free earlier may be taken."""
    from torch import distributed

    make: Any = vars(distributed)["TCPStore"]  # torch's type information lacks it.
    return make(address, 0, is_master=True, wait_for_workers=False)
