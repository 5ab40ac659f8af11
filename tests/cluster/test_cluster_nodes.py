"""Clusters that are not ours: joined, left as they were, and losing a node in mid-sweep."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from samtune.cluster.gpu_memory import GpuMemoryError, warning
from samtune.cluster.size import TrialSize, fitting
from samtune.record.outcome import of_exception
from samtune.record.record import Record
from samtune.space.schema import ResourceSettings
from samtune.space.search_space import SearchSpace, SpaceError
from samtune.sweep.search_stage import SearchStage
from samtune.trial import Budget, Seeds, TrialConfig

LAB = '''
import time
from pathlib import Path

import samtune


def steady(config):
    """Five epochs with a checkpoint each; waits after the second until there is a file `go`."""
    folder = Path(config.checkpoint_dir)
    done = sorted(int(path.name[6:]) for path in folder.glob("epoch-*"))
    for epoch in range(done[-1] + 1 if done else 1, 6):
        place = folder / f"epoch-{epoch:05d}"
        place.mkdir()
        (place / "state.pt").write_text("state")
        facts = {"samtune_from": samtune.__file__, "lab_from": __file__}
        samtune.report(epoch=epoch, val_acc=config.knobs["lr"], facts=facts, checkpoint=str(place))
        while epoch == 2 and not (folder.parents[3] / "go").exists():
            time.sleep(0.1)
'''
SPACE = """
samtune: 1
trainable: steady_lab:steady
knobs: {{lr: {{grid: [{values}]}}}}
budget: {{kind: epochs, per_trial: 5}}
search: {{method: grid}}
asha: {{grace: 5, factor: 3}}
resources: {resources}
"""
# Ray's own cluster in a process of its own: a line on stdin removes the node of that id.
NODES = """
import os, sys
os.environ["RAY_TMPDIR"] = sys.argv[1]
from ray.cluster_utils import Cluster
small = dict(object_store_memory=80 * 2**20)
head = dict(num_cpus=0, include_dashboard=False, **small)
cluster = Cluster(initialize_head=True, connect=False, head_node_args=head)
nodes = [cluster.add_node(num_cpus=2, num_gpus=4, **small) for _ in range(3)]
print(cluster.address, flush=True)
for line in sys.stdin:
    lost, = [node for node in nodes if node.node_id.startswith(line.strip())]
    cluster.remove_node(lost, allow_graceful=False)
    print("removed", flush=True)
cluster.shutdown()
"""
# A Python on which nothing of ours is installed, but for what Ray was sent.
BARE = """
import sys
from importlib.machinery import PathFinder

class Bare:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in {"samtune", "trainables", "steady_lab"}:
            sent = [place for place in sys.path if "py_modules" in place]
            found = PathFinder.find_spec(name, sent)
            if found is None:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return found

sys.meta_path.insert(0, Bare)
"""


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    (tmp_path / "steady_lab.py").write_text(LAB)
    return tmp_path


def environment(**words: str) -> dict[str, str]:
    here = str(Path(__file__).parents[2])
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "c" * 64, "RAY_USAGE_STATS_ENABLED": "0"}
    return {**os.environ, "PYTHONPATH": here, **token, **words}


def write_space(folder: Path, values: str, resources: str) -> None:
    (folder / "steady.yaml").write_text(SPACE.format(values=values, resources=resources))


def samtune(folder: Path, address: str, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from samtune.cli import main; main()", "run", "steady.yaml"]
    options = ["--no-confirm", "--name", "run", "--address", address, "--quiet", *words]
    return subprocess.Popen(
        [*command, *options],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(
    found: Callable[[], bool], sweep: subprocess.Popen[str], seconds: float = 240
) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert sweep.poll() is None, sweep.communicate()[0]
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.5)


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.fixture
def short() -> Iterator[str]:
    """A folder for Ray, whose socket paths must be short."""
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield folder


@pytest.mark.slow
def test_a_node_is_lost_and_nothing_else(lab: Path, short: str) -> None:
    """Three nodes of four GPUs; trials of two GPUs are on all three when one is removed."""
    values = ", ".join(f"0.{k}" for k in range(1, 9))
    write_space(lab, values, "{cpus: 1, gpus: 2}")
    script = subprocess.Popen(
        [sys.executable, "-c", NODES, short],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with ended(script):
        assert script.stdin is not None and script.stdout is not None
        address = script.stdout.readline().strip()
        with ended(samtune(lab, address)) as sweep:
            wait_for((lab / "runs" / "run" / "sweep.db").exists, sweep)
            with Record.open(lab / "runs", "run") as record:
                wait_for(lambda: sum(r.epoch == 2 for r in record.reports()) == 6, sweep)
                on = {trial.trial: trial.facts["node"] for trial in record.trials()}
                assert sorted(Counter(on.values()).values()) == [2, 2, 2], "spread over all nodes"
                lost = on[1]
                script.stdin.write(f"{lost}\n")
                script.stdin.flush()
                assert script.stdout.readline().strip() == "removed"
                # Only then: its workers live on for a moment.
                wait_for(
                    lambda: sum(a["ended_at"] is not None for a in record.attempts()) == 2, sweep
                )
                (lab / "go").touch()
                assert sweep.wait(240) == 0, sweep.communicate()[0]
                causes = defaultdict(list)
                for attempt in record.attempts():
                    causes[attempt["trial"]].append(attempt["cause"])
                for trial in record.trials():
                    assert trial.state == "completed"
                    epochs = [report.epoch for report in record.reports(trial=trial.trial)]
                    assert epochs == [1, 2, 3, 4, 5], "nothing twice and nothing left out"
                    there = ["node_lost"] if on.get(trial.trial) == lost else []
                    assert causes[trial.trial] == [*there, "completed"]
                    assert trial.facts["node"] != lost or not there
        script.stdin.close()
        script.wait(60)


@pytest.mark.slow
def test_a_cluster_that_has_nothing_of_ours_is_sent_it_and_stays(lab: Path, short: str) -> None:
    write_space(lab, "0.1, 0.2", "{cpus: 1, parallel: 1}")
    (lab / "go").touch()
    bare = lab / "bare"
    bare.mkdir()
    (bare / "sitecustomize.py").write_text(BARE)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    words = [f"--port={port}", f"--temp-dir={short}", "--num-cpus=2", "--include-dashboard=false"]
    memory = [f"--object-store-memory={80 * 2**20}", "--node-ip-address=127.0.0.1"]
    address = f"127.0.0.1:{port}"
    with ended(
        subprocess.Popen(
            [*ray, *words, *memory],
            cwd=short,
            env=environment(PYTHONPATH=str(bare)),
            stdout=subprocess.DEVNULL,
            text=True,
        )
    ) as head:
        deadline = time.monotonic() + 120
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert head.poll() is None and time.monotonic() < deadline
            time.sleep(0.5)
        with ended(samtune(lab, address, "--ship-code")) as sweep:
            assert sweep.wait(240) == 0, sweep.communicate()[0]
        with Record.open(lab / "runs", "run") as record:
            for trial in record.trials():
                assert trial.state == "completed"
                assert "py_modules" in trial.facts["samtune_from"]
                assert "py_modules" in trial.facts["lab_from"]
        look = f"import ray; ray.init('{address}', logging_level='ERROR'); print(ray.nodes())"
        seen = subprocess.run(
            [sys.executable, "-c", look],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert head.poll() is None and "'Alive': True" in seen.stdout, "the cluster is still up"


@pytest.mark.parametrize(
    ("node", "cpus", "gpus", "fits"),
    [
        ({"CPU": 8}, 1, 0, 8),
        ({"CPU": 8}, 1, 0.5, 0),
        ({"CPU": 8, "GPU": 2}, 1, 0.4, 4),
        ({"CPU": 3, "GPU": 2}, 1, 0.25, 3),
        ({"CPU": 8, "GPU": 4}, 1, 2, 2),
        ({"CPU": 0.3}, 0.1, 0, 3),
    ],
)
def test_a_gpu_is_shared_by_whole_trials(
    node: dict[str, float], cpus: float, gpus: float, fits: int
) -> None:
    assert fitting(node, cpus, gpus) == fits


def test_a_trial_starts_where_its_gpu_has_room() -> None:
    def trial(gpus: float) -> TrialConfig:
        return TrialConfig(
            *("t:t", "sam", "sgd"), {}, {}, Budget("epochs", 1), Seeds(1, 1, 1), gpus=gpus
        )

    def free(gb: float) -> Callable[[], tuple[int, int]]:
        return lambda: (int(gb * 1e9), int(80e9))

    assert warning(trial(0.25), 0, free(19)) is None
    assert "3.0 of 80.0 GB are free" in (warning(trial(0.25), 0, free(3)) or "")
    assert warning(trial(1), 0, free(0)) is None, "one that has its GPU alone is not asked"
    assert warning(trial(0.25), 10, free(12)) is None
    with pytest.raises(GpuMemoryError, match=r"resources\.gpu_memory_gb asks for 10") as caught:
        warning(trial(1), 10, free(3))
    assert of_exception(caught.value) == ("oom", True)
    for gpus, gb, way in ((1, 10, "end other"), (0.5, 10, "raise res"), (0.5, 90, "lower it$")):
        with pytest.raises(GpuMemoryError, match=f"asks for {gb}; {way}"):
            warning(trial(gpus), gb, free(3))


def test_workers_take_whole_gpus() -> None:
    with pytest.raises(Exception, match="2 workers cannot share a GPU") as caught:
        SearchSpace.load("sgd", ["resources.workers=2", "resources.gpus=0.5"])
    assert type(caught.value).__name__ == "SpaceError"
    assert SearchSpace.load("sgd", ["resources.workers=2"]).resources == ResourceSettings(
        workers=2
    )


@pytest.mark.parametrize(
    ("size", "advice"),
    [
        (TrialSize(1, 1, 1), "try --set resources.gpus=0"),
        (TrialSize(1, 1, 2), "try --set resources.gpus=0 or --set resources.workers=1"),
        (TrialSize(8, 0, 1), "try --set resources.cpus=1"),
        (TrialSize(1, 0, 1), "try a node with more CPUs"),
    ],
)
def test_advice_for_a_trial_that_fits_nowhere_would_make_it_smaller(
    size: TrialSize, advice: str
) -> None:
    assert size.does_not_fit([{"CPU": 0.5}]).endswith(f"on 1 node; {advice}")


@pytest.mark.parametrize("word", ["cpus", "gpus"])
def test_a_share_that_ray_cannot_count_is_refused(word: str) -> None:
    """Ray counts in ten-thousandths, and its Tune ended in the middle of the sweep."""
    with pytest.raises(SpaceError, match=f"resources.{word}: 5e-05; at least 0.0001"):
        SearchSpace.load("sgd", [f"resources.{word}=0.00005"])
    SearchSpace.load("sgd", [f"resources.{word}=0.0001"])


def test_spaces_hold_the_cluster_evenly_whatever_their_trials_take(runs: Path) -> None:
    """Four slots; the first space's trials take five times as long as the second's."""
    spaces = [SearchSpace.load(name, ["budget.trials=12"]) for name in ("sgd", "sam")]
    rows = [
        {**{"name": s.name, "variant": s.variant, "base": s.base, "space": s.text}}
        | {"sha256": s.sha256, "settings": "{}"}
        for s in spaces
    ]
    with Record.create(runs, "fair", rows) as record:
        search = SearchStage(record, spaces)
        running: dict[int, tuple[int, object]] = {}
        served: Counter[int] = Counter()
        for moment in range(1000):
            while len(running) < 4 and (trial := search.next()) is not None:
                served[trial.study] += 1
                ends = moment + (10 if trial.study == 0 else 2)
                running[trial.trial] = ends, trial
            held = Counter(trial.study for _, trial in running.values())
            if served[0] < 12 and served[1] < 12:
                assert held[0] == held[1] == 2
            for number, (ends, trial) in list(running.items()):
                if ends <= moment:
                    search.ended(trial, "pruned", {1: 0.5})
                    del running[number]
        assert served == {0: 12, 1: 12}
