"""The optimizers need torch, and nothing else that samtune installs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import samtune

USE = """
import sys
import torch
from torch.nn import functional as F
from samtune.optimizers import ASAM, VARIANTS, GradientOracle, base_of

torch.manual_seed(0)
model = torch.nn.Linear(4, 2)
x, y = torch.randn(8, 4), torch.randint(2, (8,))
optimizer = ASAM(base_of(ASAM, "sgd").build(model.parameters(), lr=0.1))
before = F.cross_entropy(model(x), y)
for _ in range(5):
    optimizer.step(GradientOracle(model, x, y, torch.nn.CrossEntropyLoss(reduction="none")))


def closure():
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    return loss


assert optimizer.step(closure) < before and len(VARIANTS) == 22
for name in ("numpy", "ray", "optuna", "pandas", "pydantic", "yaml", "click"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise AssertionError(f"{name} is installed here")
"""


def needed(name: str, found: set[str]) -> set[str]:
    """Return the distribution and all that it requires."""
    if name not in found:
        found.add(name)
        for requirement in distribution(name).requires or ():
            if "extra ==" not in requirement:
                word = re.match(r"[\w.-]+", requirement)
                try:
                    needed(word[0] if word else "", found)
                except ModuleNotFoundError:
                    continue  # It is for another system.
    return found


def test_the_optimizers_work_with_torch_alone(tmp_path: Path) -> None:
    """The process has torch, what torch requires, and samtune without its other requirements."""
    for name in needed("torch", set()):
        files = distribution(name).files or ()
        for top in {file.parts[0] for file in files if file.parts[0] not in {"..", "__pycache__"}}:
            if not (tmp_path / top).exists():
                (tmp_path / top).symlink_to(distribution(name).locate_file(top))
    (tmp_path / "samtune").symlink_to(Path(samtune.__file__).parent)
    done = subprocess.run(
        [sys.executable, "-S", "-W", "ignore", "-c", USE],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
