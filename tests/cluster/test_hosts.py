"""Trial hosts: what a launcher gets where a nursery is, with a program in place of Ray's worker.

In processes without Ray: this one has threads, which a nursery refuses.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from samtune.cluster import launcher
from samtune.cluster.forks import nursery
from samtune.record.record import Record

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="hosts need Linux")

COMMAND = """
import os, sys
if "with-torch" in sys.argv:
    import torch
held = open("held", "w")
from samtune.cluster.forks import nursery
with nursery() as address:
    print(address or "", flush=True)
    sys.stdin.read()
"""
# What the launcher is handed for a worker's program.
WORKER = """
import ctypes, json, os, sys
import ray, ray.tune
if "torch" in sys.modules:
    threads = sys.modules["torch"].get_num_threads()
held = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
        if os.path.lexists(f"/proc/self/fd/{fd}")]
print(json.dumps({
    "pid": os.getpid(),
    "parent": os.getppid(),
    "group": os.getpgid(0),
    "words": sys.argv[1:],
    "folder": os.getcwd(),
    "environment": dict(os.environ),
    "compiler": "torch._dynamo" in sys.modules,
    "threads": globals().get("threads"),
    "held": held,
    "drawn": [ray.NodeID.from_random().hex(), ray.PlacementGroupID.from_random().hex()],
    "read": ray._raylet.Config.worker_register_timeout_seconds(),
}), flush=True)
if "hang" in sys.argv:
    # With Python's lock held, so that no thread of its own could end it.
    ctypes.PyDLL(None).sleep(1000)
if "fail" in sys.argv:
    raise RuntimeError("told to")
"""
# What Ray has beside a worker's program, for launchers that have no nursery.
SETUP = "import sys; print('an ordinary worker', *sys.argv[1:])"

Launch = Callable[..., "subprocess.Popen[str]"]


def _process(words: list[str], folder: Path, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "RAY_JOB_ID": "01000000", **more},
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hosts")
    (folder / "worker.py").write_text(WORKER)
    (folder / "setup_worker.py").write_text(SETUP)
    (folder / "empty").mkdir()
    return folder


@pytest.fixture(scope="module")
def command(place: Path) -> subprocess.Popen[str]:
    """A command with a nursery that all tests share, and that each may end."""
    process = _process(["-c", COMMAND, "with-torch"], place)
    yield process
    process.communicate()


@pytest.fixture(scope="module")
def address(command: subprocess.Popen[str]) -> str:
    assert command.stdout is not None
    return command.stdout.readline().strip()


def launch(place: Path, address: str, *words: str, prefix: str = "cd", **more: str) -> Launch:
    context = {"command_prefix": [prefix, str(place / "empty"), "&&"], "env_vars": {"OURS": "1"}}
    told = f"--serialized-runtime-env-context={json.dumps(context)}"
    program = [str(place / "worker.py"), *words]
    more = {launcher.ADDRESS: address, **more}
    return _process([launcher.__file__, *program, "--language=PYTHON", told], place, **more)


def told(process: subprocess.Popen[str]) -> dict[str, object]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def gone(pid: int) -> bool:
    """Whether a process ends within ten seconds."""
    for _ in range(200):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_where_there_are_threads_there_is_no_nursery(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    with nursery() as address:
        assert address is None
    over.set()
    thread.join()
    monkeypatch.setitem(sys.modules, "ray", sys)
    with nursery() as address:
        assert address is None


def test_hosts_can_be_done_without(place: Path) -> None:
    process = _process(["-c", COMMAND], place, SAMTUNE_HOSTS="0")
    out, err = process.communicate(timeout=300)
    assert (out, err) == ("\n", "")


def test_a_worker_is_a_fork_with_its_launchers_words_environment_and_output(
    place: Path, address: str
) -> None:
    settings = {"RAY_worker_register_timeout_seconds": "77"}
    process = launch(place, address, "--id=7", OMP_NUM_THREADS="3", MINE="yes", **settings)
    worker = told(process)
    assert worker["pid"] != process.pid
    assert worker["group"] == worker["pid"], "a signal to its group is for it alone"
    assert worker["words"] == ["--id=7"]
    assert worker["folder"] == str(place / "empty")
    environment = worker["environment"]
    assert (environment["MINE"], environment["OURS"]) == ("yes", "1")
    assert "RAY_RAYLET_PID" not in environment
    assert worker["read"] == 77, "Ray goes by this environment"
    assert worker["compiler"], "it is there before the first optimizer is"
    assert worker["threads"] == 3
    assert gone(worker["pid"])


def test_no_two_workers_draw_the_same_numbers_from_ray(place: Path, address: str) -> None:
    first, second = (told(launch(place, address)) for _ in range(2))
    assert first["parent"] == second["parent"], "both are forks of one nursery"
    assert not set(first["drawn"]) & set(second["drawn"])


def test_nothing_of_the_command_is_open_in_a_worker(place: Path, address: str) -> None:
    held = " ".join(told(launch(place, address))["held"])
    assert str(place / "held") not in held
    assert "socket:" not in held


@pytest.mark.parametrize(
    "more",
    [{"RAY_JOB_ID": "02000000"}, {"prefix": "true; cd"}],
    ids=["of-another-job", "with-another-setup"],
)
def test_a_worker_that_no_fork_can_be_is_a_process_of_its_own(
    place: Path, address: str, more: dict[str, str]
) -> None:
    nursery_of = told(launch(place, address))["parent"]
    worker = told(launch(place, address, "--id=8", **more))
    assert worker["parent"] == nursery_of, "it is watched all the same"
    assert (worker["words"], worker["compiler"]) == (["--id=8"], False)
    assert worker["folder"] == str(place / "empty")


def test_an_agent_is_a_fork_without_a_workers_setup(place: Path, address: str) -> None:
    words = [launcher.__file__, str(place / "worker.py"), "--node-id=7"]
    agent = told(_process(words, place, **{launcher.ADDRESS: address}))
    assert (agent["words"], agent["folder"]) == (["--node-id=7"], str(place))
    assert agent["compiler"]


@pytest.mark.parametrize("address", ["", "samtune-nowhere"])
def test_without_a_nursery_a_launcher_is_rays_own_setup(place: Path, address: str) -> None:
    out, err = launch(place, address, "--id=9").communicate(timeout=300)
    assert out.startswith(f"an ordinary worker {place / 'worker.py'} --id=9 --language=PYTHON")
    assert not err


def test_a_launcher_ends_with_its_worker(place: Path, address: str) -> None:
    failed = launch(place, address, "fail")
    assert "RuntimeError: told to" in failed.communicate(timeout=300)[1]
    process = launch(place, address, "hang")
    worker = json.loads(process.stdout.readline())
    os.kill(worker["pid"], signal.SIGKILL)
    process.communicate(timeout=300)


def test_a_worker_ends_with_its_launcher_even_if_it_holds_the_lock(
    place: Path, address: str
) -> None:
    process = launch(place, address, "hang")
    worker = json.loads(process.stdout.readline())
    process.kill()
    assert gone(worker["pid"]), "the nursery has ended it"
    process.communicate()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_gets_no_worker(address: str) -> None:
    asks = (
        "import os\n"
        "from samtune.cluster import launcher\n"
        "os.setuid(65534)\n"
        "os.execv = lambda *_: print('left to itself')\n"
        "launcher._main(['worker.py'])"
    )
    process = _process(["-c", asks], Path("/"), **{launcher.ADDRESS: address})
    out, err = process.communicate(timeout=300)
    assert (out, err) == ("left to itself\n", "")


def test_all_ends_when_the_command_is_killed(place: Path) -> None:
    command = _process(["-c", COMMAND], place)
    process = launch(place, command.stdout.readline().strip(), "hang")
    worker = json.loads(process.stdout.readline())
    assert worker["parent"] != command.pid
    command.kill()
    command.communicate()
    assert gone(worker["pid"])
    assert gone(worker["parent"])
    process.communicate(timeout=300)


LAB = """
import os
import sys
from pathlib import Path
import samtune

def train(config):
    here = Path(__file__).parent
    with (here / "workers").open("a") as file:
        print(os.getpid(), os.getppid(), "torch._dynamo" in sys.modules, file=file)
    if not (here / "died").exists():
        (here / "died").touch()
        os.kill(os.getpid(), 9)
    samtune.report(epoch=1, val_acc=0.5)
"""
SPACE = """
samtune: 1
trainable: lab:train
knobs: {lr: {grid: [0.1, 0.2]}}
budget: {kind: epochs, per_trial: 1}
search: {method: grid}
resources: {parallel: 1}
"""


@pytest.mark.slow
def test_rays_workers_are_forks_and_another_takes_a_dead_ones_place(tmp_path: Path) -> None:
    (tmp_path / "lab.py").write_text("import torch\n" + LAB)
    (tmp_path / "lab.yaml").write_text(SPACE)
    run = "from samtune.cli import main; main()"
    words = ["run", "lab.yaml", "--name", "forks", "--no-confirm", "--quiet"]
    process = _process(["-c", run, *words], tmp_path, PYTHONPATH=os.pathsep.join(sys.path))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    workers = [line.split() for line in (tmp_path / "workers").read_text().splitlines()]
    died, first, second = workers
    assert first == second != died, "the next worker has both trials"
    assert first[1:] == died[1:], "both workers are forks of one nursery"
    assert died[2] == "True"
    with Record.open(tmp_path / "runs", "forks") as record:
        assert [trial.state for trial in record.trials()] == ["completed"] * 2
        assert [attempt["cause"] for attempt in record.attempts()].count("worker_died") == 1
    assert all(gone(int(pid)) for pid in {died[0], first[0], first[1]})
