"""Each example runs as its docstring says, and does what it says."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from samtune.record.record import Record

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(*words: str, folder: Path = EXAMPLES) -> str:
    """Return what a command of the examples prints; it keeps no data of the user's."""
    own = {"PYTHONPATH": str(EXAMPLES.parent), "SAMTUNE_DATA_ROOT": str(folder / "mapped")}
    environment = {**os.environ, **own}
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def copied(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of one example's folder, so that nothing is written into the repository."""
    return shutil.copytree(EXAMPLES / request.param, tmp_path / request.param)


@pytest.mark.parametrize(
    ("script", "needs"),
    [
        ("closure_loop", "torch"),
        ("lightning_module", "lightning"),
        ("accelerate_loop", "accelerate"),
        ("hf_trainer", "transformers"),
    ],
)
def test_a_training_loop_learns(tmp_path: Path, script: str, needs: str) -> None:
    if importlib.util.find_spec(needs) is None:
        pytest.skip(f"needs {needs}, an extra of the tests")
    out = run(sys.executable, str(EXAMPLES / f"{script}.py"), folder=tmp_path)
    found = re.search(r"accuracy (\S+)", out)
    assert found is not None and float(found[1]) > 0.9
    if script in {"lightning_module", "hf_trainer"}:
        # Four batches in each of twenty epochs: SAM's two passes are one step.
        assert "steps 80," in out


@pytest.mark.parametrize(
    ("copied", "space", "before"),
    [
        ("text_classifier", "sentences.yaml", []),
        ("own_images", "shapes.yaml", ["draw.py"]),
        ("own_variant", "sign_sam.yaml", []),
    ],
    indirect=["copied"],
)
@pytest.mark.slow
def test_a_sweep_ends_in_a_confirmed_leaderboard(
    copied: Path, space: str, before: list[str]
) -> None:
    for script in before:
        run(sys.executable, script, folder=copied)
    out = run(sys.executable, "-m", "samtune", "run", space, "--json", folder=copied)
    (row,) = json.loads(out)["rows"]
    assert row["repeats"] == (3 if copied.name == "text_classifier" else 2)
    assert row["test_openings"] == row["repeats"]


@pytest.mark.parametrize("copied", ["cluster"], indirect=True)
@pytest.mark.slow
def test_a_sweep_runs_on_the_nodes_of_a_cluster(copied: Path) -> None:
    out = run(sys.executable, "two_nodes.py", folder=copied)
    assert out.count("completed") == 4
    with Record.open(copied / "runs", "nodes") as record:
        assert len({trial.facts["node"] for trial in record.trials()}) == 2


@pytest.mark.parametrize("copied", ["notebook"], indirect=True)
@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbformat = pytest.importorskip("nbformat", reason="an extra of the tests")
    client = pytest.importorskip("nbclient", reason="an extra of the tests")
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    monkeypatch.setenv("FORCE_COLOR", "1")
    notebook = nbformat.read(copied / "first_sweep.ipynb", as_version=4)
    client.NotebookClient(
        notebook, timeout=250, resources={"metadata": {"path": copied}}
    ).execute()
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    assert {(each["output_type"], each.get("name")) for each in outputs[1]} == {
        ("stream", "stderr")
    }
    lines = "".join(each["text"] for each in outputs[1]).splitlines()
    assert any(line.startswith("run first: ") for line in lines), "the cell was cleared"
    counts = [line.split()[:2] for line in lines if line.startswith("[")]
    assert counts == [
        *([f"[{k}/12]", "parabola"] for k in range(1, 13)),
        *([f"[{k}/3]", "parabola"] for k in range(1, 4)),
    ]
    assert abs(eval(outputs[-1][0]["data"]["text/plain"])["x"] - 0.7) < 0.3
    assert "test_score_mean" in outputs[2][0]["data"]["text/plain"]
