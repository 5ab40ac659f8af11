"""MPS runs on each node with GPUs while a sweep does, by a program in place of NVIDIA's."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from mps_program import install
from processes import runs
from ray.exceptions import GetTimeoutError

from samtune.cluster import mps, worker
from samtune.cluster import sharing as sharing_on_nodes
from samtune.cluster.mps import daemon
from samtune.cluster.nvidia import Seen
from samtune.cluster.size import TrialSize
from samtune.commands.checks import sharing
from samtune.record.folder import RunError
from samtune.space.schema import ResourceSettings
from samtune.trial import Budget, Seeds, TrialConfig

GB = 2**30


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Install the program; returns its log."""

    def installed(more: str = "") -> Path:
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return install(tmp_path, more)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setattr(mps, "gpus_of_driver", lambda: Seen(2, "580.00", (80 * GB, 40 * GB)))
    return installed


def test_a_daemon_runs_while_the_block_does(control: Callable[..., Path], tmp_path: Path) -> None:
    calls, folder = control(), tmp_path / "mps"
    with pytest.raises(KeyboardInterrupt), daemon(0.25, folder) as settings:
        began, limits = calls.read_text().splitlines()
        assert began == "-d; sees all", "or its numbers of GPUs were not those of Ray's workers"
        limit = "set_default_device_pinned_mem_limit"
        assert limits == f"{limit} 0 20480M; {limit} 1 10240M; sees all"
        assert settings["CUDA_MPS_PIPE_DIRECTORY"] == f"{folder}/pipe"
        assert settings["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
        raise KeyboardInterrupt
    assert calls.read_text().splitlines()[2:] == ["quit; sees all"]


def test_without_it_or_where_it_fails_there_is_a_sentence(
    control: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert sharing().detail.startswith("off: nvidia-cuda-mps-control is not here")
    with pytest.raises(
        RunError, match="there is no nvidia-cuda-mps-control on the PATH"
    ) as caught:
        daemon(0.5, tmp_path / "none").__enter__()
    assert caught.value.exit_code == 5
    control("sys.exit('An instance of this daemon is already running')")
    with pytest.raises(RunError, match=r"did not start \(An instance of this daemon is already"):
        daemon(0.5, tmp_path / "fails").__enter__()
    monkeypatch.setattr(mps, "_PATIENCE_S", 0.3)
    control("time.sleep(60)")
    with pytest.raises(RunError, match=r"did not start \(.* timed out"):
        daemon(0.5, tmp_path / "hangs").__enter__()
    assert sharing().detail.endswith(f"would use {tmp_path / mps.CONTROL}")


def test_nodes_that_do_not_answer_are_a_sentence_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object, **__: object) -> None:
        raise GetTimeoutError("Get timed out: some object(s) not ready.\nmore")

    anything = MagicMock()
    monkeypatch.setattr(
        sharing_on_nodes, "ray", SimpleNamespace(get=late, get_runtime_context=MagicMock())
    )
    monkeypatch.setattr(sharing_on_nodes, "_placed", lambda *_, **__: anything)
    monkeypatch.setattr(sharing_on_nodes, "with_gpus", lambda: {"id": "10.0.0.2"})
    said = r"not start on all nodes \(Get timed out.*\); without it: --set resources\.gpu_sharing"
    with pytest.raises(RunError, match=said), sharing_on_nodes.shared_gpus(0.5):
        pass


def test_only_trials_that_share_a_gpu_need_it() -> None:
    quarter = ResourceSettings(gpus=0.25, gpu_sharing="mps")
    assert TrialSize.of([quarter, ResourceSettings(gpus=0.5)]).mps
    assert not TrialSize.of([quarter, ResourceSettings(gpus=1)]).mps
    assert not TrialSize.of([ResourceSettings(gpus=0.25)]).mps


def test_a_worker_joins_before_anything_of_the_user_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process cannot join any more once the user's module has used CUDA."""
    trial = TrialConfig("t:t", "sam", "sgd", {}, {}, Budget("epochs", 1), Seeds(1, 1, 1))
    order: list[str | None] = []

    class Told(worker.Driver):
        def warn(self, text: str | None) -> None:
            order.append(text)

    def enter(config: object) -> None:
        order.append("enter")
        raise InterruptedError

    monkeypatch.setattr(worker, "enter", enter)
    monkeypatch.setattr(worker.sharing, "join", lambda: "why not")
    for on in (True, False):
        with pytest.raises(InterruptedError):
            worker._train(trial, {"mps": on}, Told())
    assert order == ["why not", "enter", None, "enter"]


# Three sweeps on a cluster. The second says what each node's workers have joined.
SWEEPS = """
import os, sys
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
from samtune.cluster import sharing, start
from samtune.space.schema import ResourceSettings

@ray.remote(num_cpus=0)
def joins():
    return sharing.join(), os.environ.get("CUDA_MPS_PIPE_DIRECTORY")

for line in sys.stdin:
    try:
        with start.cluster([ResourceSettings(gpus=0.25, gpu_sharing="mps")], sys.argv[1]) as on:
            print(on.slots, *sharing.without_mps(), flush=True)
            sys.stdin.readline()
            for node in ray.nodes():
                there = On(node["NodeID"], soft=False)
                print(*ray.get(joins.options(scheduling_strategy=there).remote()), flush=True)
        print("ended", flush=True)
    except start.RunError as error:
        print(error, flush=True)
"""
NODES = """
import os, sys
os.environ["RAY_TMPDIR"] = sys.argv[1]
from ray.cluster_utils import Cluster
small = dict(num_cpus=4, num_gpus=1, object_store_memory=80 * 2**20)
head = dict(include_dashboard=False, **small)
cluster = Cluster(initialize_head=True, connect=False, head_node_args=head)
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.add_node(**small)
    print("added", flush=True)
cluster.shutdown()
"""


class Script:
    """A script in a process of its own, which answers lines by lines."""

    def __init__(self, code: str, word: str) -> None:
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "c" * 64}
        here = {"PYTHONPATH": str(Path(__file__).parents[2]), "RAY_USAGE_STATS_ENABLED": "0"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, word],
            env={**os.environ, **token, **here},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def go_on(self) -> None:
        """Send it a line."""
        assert self.process.stdin is not None
        print(file=self.process.stdin, flush=True)

    def says(self) -> str:
        """Return its next line."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@pytest.fixture
def nodes(control: Callable[..., Path]) -> Iterator[tuple[str, Script]]:
    """The address of a cluster with one GPU, to which a line adds a node with another."""
    control()
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as short:
        cluster = Script(NODES, short)
        yield cluster.says(), cluster
        cluster.process.communicate(timeout=60)


@pytest.mark.slow
def test_each_node_of_a_cluster_has_a_daemon_that_ends_with_the_sweep(
    nodes: tuple[str, Script], control: Callable[..., Path]
) -> None:
    address, cluster = nodes
    sweeps = Script(SWEEPS, address)
    control("sys.exit('no')")
    sweeps.go_on()
    failed = sweeps.says()
    assert failed.startswith("node ") and "did not start (no)" in failed

    # The node that is told last takes longer.
    calls = control(
        "if told == ['quit'] and open(calls.name).read().count('quit') == 2: time.sleep(2)"
    )

    def daemons() -> list[bool]:
        return [runs(int(pid)) for pid in Path(f"{calls}-pids").read_text().split()]

    sweeps.go_on()
    assert sweeps.says() == "4" and daemons() == [True]
    cluster.go_on()
    assert cluster.says() == "added"
    sweeps.go_on()
    first, second = sweeps.says().split(), sweeps.says().split()
    assert first[0] == second[0] == "None" and first[1] != second[1]
    assert sweeps.says() == "ended" and daemons() == [False, False]
    assert calls.read_text().count("quit") == 2
    assert not Path(first[1]).exists() and not Path(second[1]).exists()

    sweeps.go_on()
    assert sweeps.says() == "8" and daemons() == [False, False, True, True]
    sweeps.process.kill()
    deadline = time.monotonic() + 60
    while any(daemons()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert calls.read_text().count("quit") == 2, "nobody was left to say so"
