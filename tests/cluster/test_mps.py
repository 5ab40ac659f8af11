"""MPS is started before Ray and ended after it, with a program in place of NVIDIA's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from samtune.cluster import mps, start
from samtune.cluster.mps import shared_gpus
from samtune.cluster.nvidia import Seen
from samtune.commands.checks import sharing
from samtune.record.folder import RunError
from samtune.space.schema import ResourceSettings

GB = 2**30
# Notes how it was called, and what it was told.
PROGRAM = """#!/bin/sh
echo "$* $(test -t 0 || cat) $CUDA_MPS_PIPE_DIRECTORY $CUDA_MPS_PINNED_DEVICE_MEM_LIMIT" >> {log}
test -d "$CUDA_MPS_LOG_DIRECTORY" || exit 2
{more}
"""


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Install the program; returns its log."""

    def install(more: str = "") -> Path:
        log, program = tmp_path / "calls", tmp_path / mps.CONTROL
        program.write_text(PROGRAM.format(log=log, more=more))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return log

    monkeypatch.setattr(mps, "gpus_of_driver", lambda: Seen(2, "580.00", (80 * GB, 40 * GB)))
    return install


def test_a_daemon_runs_while_the_block_does(
    control: Callable[[str], Path], tmp_path: Path
) -> None:
    log, folder = control(""), tmp_path / "mps"
    with shared_gpus(0.25, folder) as settings:
        assert log.read_text() == f"-d  {folder}/pipe 0=20480M,1=10240M\n"
        assert settings["CUDA_MPS_PIPE_DIRECTORY"] == f"{folder}/pipe"
        assert (folder / "pipe").is_dir() and (folder / "log").is_dir()
    assert log.read_text().splitlines()[1:] == [f" quit {folder}/pipe 0=20480M,1=10240M"]


def test_it_ends_with_a_sweep_that_fails(control: Callable[[str], Path], tmp_path: Path) -> None:
    log = control("")
    with pytest.raises(KeyboardInterrupt), shared_gpus(0.5, tmp_path / "mps"):
        raise KeyboardInterrupt
    assert " quit " in log.read_text()


def test_without_it_or_where_it_fails_the_sweep_does_not_begin(
    control: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert sharing().detail.startswith("off: nvidia-cuda-mps-control is not here")
    with pytest.raises(
        RunError, match="there is no nvidia-cuda-mps-control on the PATH"
    ) as caught:
        shared_gpus(0.5, tmp_path / "none").__enter__()
    assert caught.value.exit_code == 5
    control("echo 'An instance of this daemon is already running' >&2; exit 1")
    with pytest.raises(RunError, match=r"did not start \(An instance of this daemon is already"):
        shared_gpus(0.5, tmp_path / "mps").__enter__()
    assert sharing().detail.endswith(f"would use {tmp_path / mps.CONTROL}")


@pytest.mark.parametrize("word", ["mps", "off"])
def test_rays_workers_find_the_daemon(
    word: str, control: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's processes inherit the environment in which it starts."""
    log, seen = control(""), {}

    def init(**_: object) -> None:
        seen.update(os.environ)

    monkeypatch.setattr(start.ray, "init", init)
    monkeypatch.setattr(start.ray, "shutdown", lambda: seen.update(ended=log.exists() and "quit"))
    monkeypatch.setattr(start, "alive", lambda: [{"CPU": 4.0, "GPU": 1.0}])
    wanted = [ResourceSettings(gpus=0.25, gpu_sharing=word), ResourceSettings(gpus=0.25)]
    with start.cluster(wanted) as made:
        assert made.slots == 4
    if word == "off":
        assert not log.exists() and "CUDA_MPS_PIPE_DIRECTORY" not in seen
        return
    assert seen["CUDA_MPS_PIPE_DIRECTORY"] == f"{made.scratch}/mps/pipe"
    assert len(seen["CUDA_MPS_PIPE_DIRECTORY"]) < 90, "the path of a socket"
    assert log.read_text().splitlines()[-1].startswith(" quit ")
    assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ
    with pytest.raises(RunError, match="mps is for this machine"):
        start.cluster(wanted, "10.0.0.1:6379").__enter__()
