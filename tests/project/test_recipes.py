"""The recipes of docs/how-to/clusters.md, as far as they can be tried without a cluster."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from samtune.cli import cli

DOCS = Path(__file__).parents[2] / "docs"
RECIPES = DOCS / "recipes"
STANDINS = {
    "scontrol": 'if [ "$1" = show ]; then echo node1; echo node2; else echo "$@" >> scontrol; fi',
    "srun": 'echo "$@" >> srun',
    "ray": "exit 0",
    "samtune": """trap 'exit 75' TERM
echo "$@" >> samtune
while [ ! -f done ]; do sleep 0.05; done""",
}


def assert_runs(command: str) -> None:
    """Assert that samtune knows the words of a `samtune run`."""
    words = shlex.split(command)
    assert words[:2] == ["samtune", "run"]
    told = CliRunner().invoke(cli, ["run", "--help"]).output
    for word in words:
        assert not word.startswith("--") or f"{word} " in told or f"{word}\n" in told, word


def test_ray_accepts_the_cluster_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((RECIPES / "ray-cluster.yaml").read_text())
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["provider"]["worker_ips"] and prepared["max_workers"] == 2
    assert all("RAY_AUTH_MODE=token" in c for c in config["head_start_ray_commands"][1:])
    text = (RECIPES / "ray-cluster.yaml").read_text()
    assert_runs(re.search(r"'(samtune run [^']*)'", text)[1])


def test_the_kuberay_job_is_one() -> None:
    job = yaml.safe_load((RECIPES / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert_runs(job["spec"]["entrypoint"])
    assert "--address auto" in job["spec"]["entrypoint"]
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        mounts = {mount["name"] for c in pod["containers"] for mount in c["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod["volumes"]}
        assert "shared" in mounts, "every node sees the runs"


@pytest.mark.parametrize(("cut", "code"), [(True, 75), (False, 0)])
def test_a_slurm_job_that_is_cut_is_requeued(tmp_path: Path, cut: bool, code: int) -> None:
    script = RECIPES / "slurm.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    for name, body in STANDINS.items():
        (tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[1-2]"}
    with subprocess.Popen(
        ["bash", str(script), "asam.yaml", "asam"],
        cwd=tmp_path,
        env={**os.environ, **job, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
    ) as sweep:
        deadline = time.monotonic() + 30
        while not (tmp_path / "samtune").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        token = tmp_path / ".ray-token-7"
        assert re.fullmatch("[0-9a-f]{64}", token.read_text())
        assert token.stat().st_mode & 0o077 == 0, "no other user can read the token"
        if cut:
            sweep.send_signal(signal.SIGUSR1)
        else:
            (tmp_path / "done").touch()
        assert sweep.wait(30) == code
    assert_runs("samtune " + (tmp_path / "samtune").read_text())
    assert "--nodelist=node1" in (tmp_path / "srun").read_text()
    requeued = (tmp_path / "scontrol").exists()
    assert requeued == cut and not token.exists()


def test_the_guide_names_every_recipe() -> None:
    linked = re.findall(r"\]\(../(recipes/[^)]*)\)", (DOCS / "how-to" / "clusters.md").read_text())
    assert sorted(linked) == sorted(f"recipes/{path.name}" for path in RECIPES.iterdir())
