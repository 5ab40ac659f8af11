"""Tests of what a stranger could reach or plant: ports, pickles, names, links."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab_sweeps import record_of
from ray._raylet import Config as RayConfig
from test_record import STUDY
from typed import typed

import samtune
from samtune.cluster.start import Cluster, cluster
from samtune.record.folder import RunError, check_name
from samtune.record.record import Record
from samtune.space.search_space import SearchSpace
from samtune.sweep.live import QuietView
from samtune.sweep.run_stages import run_stages
from samtune.sweep.search_stage import SearchStage
from samtune.sweep.stop import Stop

ROOT = Path(samtune.__file__).parents[1]
OURS = sorted(
    path for part in ("samtune", "trainables", "analysis") for path in (ROOT / part).rglob("*.py")
)
# Each reads nothing before its SHA-256 is right, and then by an unpickler that knows arrays only.
MAY_UNPICKLE = {"trainables/datasets/cifar.py"}


def test_ray_is_one_that_can_ask_for_a_token() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (ray,) = [need for need in project["dependencies"] if need.startswith("ray")]
    floor = re.search(r">=(\d+)\.(\d+)", ray)
    assert floor is not None and tuple(map(int, floor.groups())) >= (2, 59)


def listening() -> Counter[str]:
    """Listening TCP sockets of this process and of all below it, by process."""
    found: Counter[str] = Counter()
    driver = psutil.Process()
    for process in [driver, *driver.children(recursive=True)]:
        # One that ends meanwhile listens no more.
        with contextlib.suppress(psutil.NoSuchProcess):
            name = "driver" if process == driver else process.name()
            if name.startswith("ray::") and "Agent" not in name:
                name = f"worker {process.pid}"
            for connection in process.net_connections(kind="tcp"):
                found[name] += connection.status == psutil.CONN_LISTEN
    return +found


def test_nothing_listens_beyond_rays_own_ports(
    two_slots: Cluster, runs: Path, record_property: Callable[[str, object], None]
) -> None:
    seen: list[Counter[str]] = []

    class Look(QuietView):
        def event(self, text: str) -> None:
            seen.append(listening())

    with socket.create_server(("127.0.0.1", 0)):
        assert listening()["driver"] >= 1, "a socket of ours would be seen"
    before = listening()["driver"]
    spaces = [SearchSpace.load("sgd", ["budget.per_trial=1", "budget.trials=2", "asha.grace=1"])]
    with record_of(runs, spaces) as record:
        run_stages([SearchStage(record, spaces)], record, two_slots, Look(), Stop())
    assert len(seen) == 2
    rays = {"driver": before, "gcs_server": 1, "raylet": 2, "ray::RuntimeEnvAgent": 1}
    for sockets in seen:
        for name, count in sockets.items():
            assert count <= rays.get(name, name.startswith("worker")), sockets
    assert before <= 1
    record_property("listening sockets beyond Ray's own", f"0 of {sum(seen[-1].values())}")


def test_ray_tells_nobody_and_asks_for_a_token(two_slots: Cluster) -> None:
    import ray
    from ray._common.usage import usage_lib
    from ray._private.authentication import authentication_token_setup as authentication

    assert not usage_lib.usage_stats_enabled()
    mode = authentication.get_authentication_mode()
    assert mode == authentication.AuthenticationMode.TOKEN
    join = "import ray, sys; ray.init(address=sys.argv[1])"
    stranger = subprocess.run(
        [sys.executable, "-c", join, ray.get_runtime_context().gcs_address],
        env=os.environ | {"RAY_AUTH_TOKEN": "0" * 64},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert stranger.returncode and "token" in stranger.stderr.lower()


@pytest.fixture
def rays_settings() -> Iterator[None]:
    """Asked for before `monkeypatch`: Ray reads the environment anew when it is as it was."""
    yield
    RayConfig.initialize("")


def test_an_open_ray_is_refused_where_others_could_reach_it(
    rays_settings: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo"), (2, "eth0")])
    code, _, err = typed(capsys, "run", "sgd", "--name", "open")
    assert code == 5 and "--allow-open-ray" in err and not Path("runs/open").exists()

    def started(**words: object) -> None:
        raise RuntimeError("started")

    # Allowed, or alone on its machine, it gets as far as Ray itself.
    monkeypatch.setattr("ray.init", started)
    monkeypatch.setenv("SAMTUNE_ALLOW_OPEN_RAY", "")
    code, _, err = typed(capsys, "run", "sgd", "--name", "open", "--allow-open-ray")
    assert code == 5 and "started" in err
    monkeypatch.setenv("SAMTUNE_ALLOW_OPEN_RAY", "")
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo")])
    with pytest.raises(RunError, match="started"), cluster([SearchSpace.load("sgd").resources]):
        pass


def test_no_code_of_ours_unpickles_or_evaluates() -> None:
    unsafe = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    found = set()
    for path in OURS:
        name = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = getattr(node, "module", None)
                modules = [module] if module else [alias.name for alias in node.names]
                if {(word or "").split(".")[0] for word in modules} & unsafe:
                    found.add(name)
            if isinstance(node, ast.Call):
                call = ast.unparse(node.func)
                words = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert call not in {"eval", "exec", "os.system", "pd.read_pickle"}, (
                    f"{name}: {call}"
                )
                assert call != "torch.load" or words.get("weights_only") == "True", name
                assert words.get("allow_pickle") != "True" and words.get("shell") != "True", name
    assert found <= MAY_UNPICKLE


@given(st.text(max_size=300))
def test_a_name_is_refused_or_stays_in_its_folder(name: str) -> None:
    runs = Path("/runs")
    try:
        assert os.path.normpath(runs / check_name(name)) == f"/runs/{name}"
    except RunError as error:
        assert error.exit_code == 2 and "\n" not in str(error) and str(error).isprintable()


@pytest.mark.parametrize("name", ["../up", "/tmp/up", "a\0b", "a" * 300, "..", ".lock", "a/b"])
def test_every_command_refuses_a_hostile_name(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["run", "sgd", "--name", name], *(["status", name], ["confirm", name])):
        code, _, err = typed(capsys, *words)
        assert code == 2 and "no name for a run" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", ["", ".lock", "sweep.db", "checkpoints"])
def test_a_run_that_is_a_link_is_refused(runs: Path, tmp_path: Path, part: str) -> None:
    with Record.create(runs, "mine", [STUDY]) as record, record.lock():
        pass
    elsewhere = tmp_path / "elsewhere"
    linked = runs / "mine" / part
    shutil.move(linked, elsewhere)
    linked.symlink_to(elsewhere)
    with pytest.raises(RunError, match="symbolic link") as caught:
        Record.open(runs, "mine")
    assert caught.value.exit_code == 2
    with pytest.raises(RunError, match="is taken"):
        Record.create(runs, "mine", [STUDY])


def test_a_link_to_nowhere_takes_a_name(runs: Path, tmp_path: Path) -> None:
    runs.mkdir()
    (runs / "mine").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="is taken"):
        Record.create(runs, "mine", [STUDY])
    assert Record.create(runs, None, [STUDY | {"name": "mine"}]).name == "mine-2"
    assert not (tmp_path / "elsewhere").exists()
