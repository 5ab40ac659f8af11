"""The doctor sees what is broken, says what still works, and ends with the right code."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from samtune.cli import main
from samtune.cluster.nvidia import Seen
from samtune.commands import checks
from samtune.record import folder as run_folder
from trainables.datasets import digits

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAMTUNE_DATA_ROOT", str(tmp_path / "root"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "root"


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    """Exit code, and the checks by name."""
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--no-ray", "--json", *words])
    out = json.loads(capsys.readouterr().out)
    assert out["schema"] == "doctor/1" and out["healthy"] == (not ended.value.code)
    return int(ended.value.code or 0), {check["name"]: check for check in out["checks"]}


def test_on_a_sound_machine_it_tells_versions_devices_disk_and_data(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, found = asked(capsys)
    assert code == 0 and not [c for c in found.values() if c["state"] == "broken"]
    for name in (
        "python",
        "samtune",
        "torch",
        "torchvision",
        "ray",
        "optuna",
        "cuda",
        "gpu sharing",
    ):
        assert found[name]["detail"]
    assert found["ray"]["detail"] == importlib.metadata.version("ray")
    assert "goes with torch" in found["torchvision"]["detail"]
    assert {"disk, runs", "disk, data", "disk, temporary"} <= found.keys()
    assert found["data, digits"]["detail"] == "shipped: 1,797 images"
    assert "cifar10, cifar100" in found["data, not here"]["detail"]
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--no-ray"])
    out = capsys.readouterr().out
    assert not ended.value.code and "ok       torch " in out


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use the GPU here")
def test_a_gpu_that_torch_cannot_use_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPU defect 1. A torch that is too new for the driver sees no GPU, and raises nothing."""
    assert checks.devices().state == "ok"
    monkeypatch.setattr("samtune.commands.checks.gpus_of_driver", lambda: Seen(2, "470.82"))
    found = checks.devices()
    assert found.state == "warning"
    assert "driver 470.82 sees 2 GPUs, and torch can use none" in found.detail


def test_another_version_than_is_needed_is_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "scipy":
            raise importlib.metadata.PackageNotFoundError(name)
        return "4.9" if name == "optuna" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    code, found = asked(capsys)
    assert code == 5
    assert found["optuna"]["detail"] == "4.9, but samtune needs <6,>=5"
    assert found["scipy"]["detail"] == "not installed; type: pip install 'scipy>=1.13'"


def test_a_damaged_set_is_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "digits.npz").write_bytes(digits.FILE.read_bytes()[:-1])
    monkeypatch.setattr(digits, "FILE", tmp_path / "digits.npz")
    digits.digits.cache_clear()
    code, found = asked(capsys)
    digits.digits.cache_clear()
    assert code == 5 and "is damaged" in found["data"]["detail"]


def test_a_damaged_set_in_the_root_is_broken(
    capsys: pytest.CaptureFixture[str], root: Path
) -> None:
    (root / "cifar10").mkdir(parents=True)
    (root / "cifar10" / "manifest.json").write_text("{}")
    code, found = asked(capsys)
    assert code == 5 and "samtune data fetch" in found["data, cifar10"]["detail"]


def test_little_room_is_a_warning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=10**8)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    code, found = asked(capsys)
    assert code == 0 and found["disk, data"]["state"] == "warning"
    assert found["disk, data"]["detail"].startswith("0.1 GB free at ")


def test_runs_on_a_network_file_system_are_a_warning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mounts = tmp_path / "mounts"
    monkeypatch.setattr(run_folder, "MOUNTS", mounts)
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nthere:/x {tmp_path} nfs4 rw 0 0\n")
    code, found = asked(capsys, "--runs", "runs")
    assert code == 0 and found["runs, network"]["state"] == "warning"
    assert found["runs, network"]["detail"].startswith(f"{tmp_path / 'runs'} is on nfs4: ")
    mounts.unlink()
    assert "runs, network" not in asked(capsys, "--runs", "runs")[1]


def test_without_torchvision_it_says_what_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    check = checks.torchvision()
    assert check.state == "warning" and "ModuleNotFoundError" in check.detail
    assert "no set is downloaded and no torchvision:NAME built, all else works" in check.detail


def test_a_torchvision_for_another_device_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    import torchvision

    monkeypatch.setattr(torch, "__version__", "2.99.0+cu999")
    monkeypatch.setattr(torchvision, "__version__", "0.99.0+cpu")
    check = checks.torchvision()
    assert (check.state, check.detail) == (
        "warning",
        "0.99.0+cpu was built for cpu, and torch for cu999",
    )


_ALL_BUT_TORCHVISION = """
import json, sys
from samtune.cli import main
from samtune.trial import Budget, Seeds, TrialConfig, running

def typed(*words):
    try:
        main(words)
    except SystemExit as ended:
        return ended.code or 0

codes = [typed("doctor", "--no-ray"), typed("run", "asam", "--dry-run")]
codes.append(typed("data", "fetch", "cifar10"))
from trainables.data import load
from trainables.vision import asam
config = TrialConfig(
    "asam", "asam", "sgd", {}, {}, Budget("epochs", 1), Seeds(1, 1, 1)
)
reports = []
with running(config, reports.append):
    asam(config)
load({"dataset": "folder:" + sys.argv[1]}, 1)
print(json.dumps({"codes": codes, "reports": len(reports)}))
"""


@pytest.mark.slow
def test_with_a_broken_torchvision_all_but_downloads_works(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "fake").mkdir()
    reason = "operator torchvision::nms does not exist"
    (tmp_path / "fake" / "torchvision.py").write_text(f"raise RuntimeError({reason!r})\n")
    for name in ("ant", "bee"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for k in range(10):
            Image.new("RGB", (4, 4)).save(tmp_path / "images" / name / f"{k}.png")
    ran = subprocess.run(
        [sys.executable, "-c", _ALL_BUT_TORCHVISION, str(tmp_path / "images")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path / 'fake'}{os.pathsep}{ROOT}"},
        timeout=200,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]) == {"codes": [0, 0, 5], "reports": 1}
    assert f"cannot be used: RuntimeError: {reason}" in ran.stdout
    assert "trainables.vision:asam" in ran.stdout
    assert "torchvision" in ran.stderr and "--from-file cifar-10-python.tar.gz" in ran.stderr


@pytest.mark.slow
def test_it_starts_a_ray_and_lists_the_ports_in_use() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", "from samtune.cli import main; main()", "doctor", "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=200,
    )
    assert ran.returncode == 0, ran.stderr
    found = {check["name"]: check["detail"] for check in json.loads(ran.stdout)["checks"]}
    assert "trials at a time" in found["ray, start"]
    assert "token authentication is on" in found["ray, ports"]
    # The store of Ray's control service listens somewhere.
    assert any(word.strip(",;").isdigit() for word in found["ray, ports"].split())


def test_a_ray_that_does_not_start_is_broken(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("nobody answers")

    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "init", refuse)
        with pytest.raises(SystemExit) as ended:
            main(["doctor", "--address", "auto"])
    out, err = capsys.readouterr()
    assert ended.value.code == 5 and "Ray did not start (nobody answers)" in out
    assert err.strip().endswith("broken: ray, start")


@pytest.mark.parametrize("words", [["doctor"], ["run", "sgd"]])
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_at_which_nobody_listens_is_told_at_once(
    scheme: str, words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as held:
        # Taken, so that nobody else listens there, and closed.
        held.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(SystemExit) as ended:
            main([*words, "--address", address])
    out, err = capfd.readouterr()
    assert ended.value.code == 5
    assert f"no Ray answers at {address} (Connection refused)" in out + err
    assert "`ray start --head`" in out + err and "gcs" not in out + err
    assert not list(tmp_path.glob("runs/*"))
