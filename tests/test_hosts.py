"""Trial hosts, in processes without Ray: this one has threads, which a nursery refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from samtune.hosts import nursery

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="hosts need Linux")

LAB = """
import ctypes, os, sys, threading, time
import samtune

def note(config):
    print("hello from", os.getpid(), flush=True)
    facts = {"pid": os.getpid(), "compiler": "torch._dynamo" in sys.modules}
    if "torch" in sys.modules:
        facts["threads"] = sys.modules["torch"].get_num_threads()
    samtune.report(epoch=1, val_acc=0.5, see=1, facts=facts)
    samtune.report(epoch=2, val_acc=0.6, see=2)

def fail(config):
    raise MemoryError("all of it")

def die(config):
    os.kill(os.getpid(), 9)

def hang(config):
    print(os.getpid(), flush=True)
    # With Python's lock held, so that no thread of its own could end it.
    ctypes.PyDLL(None).sleep(1000)
"""
PRELUDE = """
import dataclasses, json, os, signal, sys, threading
import lab
from samtune import hosts
from samtune.trial import Budget, Seeds, TrialConfig

def config(name, **words):
    trial = TrialConfig(name, "sam", "sgd", {}, {}, Budget("epochs", 2), Seeds(1, 1, 1))
    return {"trial": dataclasses.replace(trial, **words).to_dict(), "path": []}

def trained(host, name, **words):
    reports = []
    return hosts.train(host, config(name, **words), reports.append), reports

with hosts.nursery() as address:
    host = hosts.mine(address)
"""


@pytest.fixture
def worker(tmp_path: Path) -> Any:
    """Runs code as a worker that has a `host`; what it prints is JSON."""
    (tmp_path / "lab.py").write_text(LAB)

    def run(code: str, *, with_torch: bool = False) -> subprocess.Popen[str]:
        body = "".join(f"    {line}\n" for line in code.splitlines())
        prelude = ("import torch\n" if with_torch else "") + PRELUDE
        return subprocess.Popen(
            [sys.executable, "-c", prelude + body],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )

    return run


def answer(process: subprocess.Popen[str]) -> tuple[Any, list[str]]:
    """The last line that it printed, and the others."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    *others, last = out.splitlines()
    return json.loads(last), others


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


@pytest.mark.parametrize("said", ["0", "1"])
def test_hosts_can_be_done_without(
    worker: Any, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    monkeypatch.setenv("SAMTUNE_HOSTS", said)
    none, _ = answer(worker("print(json.dumps(address is None and host is None))"))
    assert none == (said == "0")


def test_a_host_trains_trial_after_trial_and_prints_where_its_worker_does(worker: Any) -> None:
    code = (
        "hosts._mine = None\n"
        'os.environ["OMP_NUM_THREADS"] = "3"\n'
        "host = hosts.mine(address)\n"
        'found = [trained(host, "lab:note") for _ in range(2)]\n'
        'assert hosts.mine(address) is host and "torch._dynamo" not in sys.modules\n'
        "print(json.dumps([os.getpid(), found]))"
    )
    (pid, found), printed = answer(worker(code, with_torch=True))
    assert [failure for failure, _ in found] == [None, None]
    (first, _), (second, last) = (reports for _, reports in found)
    assert first["facts"] == second["facts"]
    assert first["facts"]["compiler"], "it is there before the first optimizer is"
    assert first["facts"]["threads"] == 3
    assert first["facts"]["pid"] != pid
    assert printed == [f"hello from {first['facts']['pid']}"] * 2
    assert last["metrics"]["val_acc"] == 0.6
    assert gone(first["facts"]["pid"])


def test_what_a_trainable_raises_is_told_and_the_host_lives_on(worker: Any) -> None:
    code = (
        'failure, _ = trained(host, "lab:fail")\n'
        'missing, _ = trained(host, "lab:nothing")\n'
        'after, reports = trained(host, "lab:note")\n'
        "print(json.dumps([failure, missing, after, len(reports)]))"
    )
    (failure, missing, after, reports), _ = answer(worker(code))
    assert failure["error"] == "MemoryError: all of it"
    assert failure["cause"] == "oom"
    assert "in fail" in failure["traceback"]
    assert missing["cause"] == "error"
    assert "nothing" in missing["error"]
    assert (after, reports) == (None, 2)


def test_a_stop_ends_the_trial_and_not_the_host(worker: Any) -> None:
    code = (
        "heard = []\n"
        "def stop(report):\n"
        "    heard.append(report)\n"
        "    raise SystemExit\n"
        "try:\n"
        '    hosts.train(host, config("lab:note"), stop)\n'
        "except SystemExit:\n"
        "    pass\n"
        "print(json.dumps([len(heard), trained(host, 'lab:note')]))"
    )
    (heard, (failure, reports)), _ = answer(worker(code))
    assert (heard, failure, len(reports)) == (1, None, 2)


def test_a_worker_ends_with_its_host(worker: Any) -> None:
    process = worker('trained(host, "lab:die")')
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL


def test_a_host_ends_with_its_worker_even_if_it_holds_the_lock(worker: Any) -> None:
    code = (
        "if os.fork() == 0:\n"
        "    hosts._mine = None\n"
        "    print(os.getpid(), flush=True)\n"
        '    trained(hosts.mine(address), "lab:hang")\n'
        "signal.pause()"
    )
    process = worker(code)
    pids = [int(process.stdout.readline()) for _ in range(2)]
    os.kill(pids[0], signal.SIGKILL)
    assert gone(pids[1]), "the nursery has ended it"
    process.kill()
    process.communicate()


def test_all_ends_when_the_command_is_killed(worker: Any) -> None:
    process = worker('trained(host, "lab:hang")')
    hanging = int(process.stdout.readline())
    nursery = psutil.Process(hanging).ppid()
    assert nursery != process.pid
    process.kill()
    process.communicate()
    assert gone(hanging)
    assert gone(nursery)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_gets_no_host(worker: Any) -> None:
    code = (
        "if (child := os.fork()) == 0:\n"
        "    os.setuid(65534)\n"
        "    hosts._mine = None\n"
        '    trained(hosts.mine(address), "lab:note")\n'
        "    os._exit(0)\n"
        "print(os.waitpid(child, 0)[1])"
    )
    status, printed = answer(worker(code))
    assert status != 0, "what it asks for is not answered"
    assert not printed


def test_nothing_of_the_command_is_open_in_a_host(worker: Any, tmp_path: Path) -> None:
    (tmp_path / "files.py").write_text(
        "import os, samtune\n"
        "def files(config):\n"
        "    held = [os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd')\n"
        "            if os.path.lexists(f'/proc/self/fd/{fd}')]\n"
        "    samtune.report(epoch=1, val_acc=1, see=1, facts={'held': ' '.join(held)})\n"
    )
    before = 'lab_lock = open("locked", "w")\n'
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            before + PRELUDE + "    print(json.dumps(trained(host, 'files:files')[1]))",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    ((report,), _) = answer(process)
    assert "locked" not in report["facts"]["held"]
    assert "socket:" in report["facts"]["held"]
