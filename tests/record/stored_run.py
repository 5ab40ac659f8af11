"""A small run whose record and checkpoints are copied to other storage."""

from __future__ import annotations

from pathlib import Path

from samtune.record.record import Record
from samtune.trial import Budget, Seeds, TrialConfig


def new_run(runs: Path) -> Record:
    space = {"name": "s", "variant": "sam", "base": "sgd", "space": "x", "sha256": "1"}
    return Record.create(runs, "run", [{**space, "settings": "{}"}])


def start(record: Record, number: int = 1) -> Path:
    """Add a trial with one attempt, and return its folder for checkpoints."""
    config = TrialConfig("t:t", "sam", "sgd", {}, {}, Budget("epochs", 9), Seeds(1, 1, 1))
    trial = record.add_trial(0, "search", number, "default", config)
    record.start_attempt(trial)
    return Path(trial.config.checkpoint_dir or "")


def checkpoint(folder: Path, epoch: int) -> Path:
    path = folder / f"epoch-{epoch:05d}"
    path.mkdir(parents=True)
    (path / "state.pt").write_bytes(b"state %d" % epoch)
    (path / "SHA256SUMS").write_text("sums")
    return path


def report(record: Record, epoch: int) -> None:
    metrics = {"epoch": epoch, "used": epoch, "metrics": {"val_acc": 0.5}, "facts": {}}
    record.add_report(1, 0, {**metrics, "checkpoint": None, "checkpoint_sha256": None}, "val_acc")
