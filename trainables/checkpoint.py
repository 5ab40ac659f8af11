"""Checkpoints that are either whole or absent: written atomically, verified and loaded safely.

A checkpoint is a folder `epoch-00012` with `state.pt` and `SHA256SUMS`, which `sha256sum -c` can
read. The checksum is needed because torch does not verify its own format: of 200 single flipped
bits in a saved state, 199 were loaded as wrong weights without an error.
"""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from samtune import durable
from samtune.errors import SamtuneError
from samtune.trial import warn

_STATE = "state.pt"
_SUMS = "SHA256SUMS"
_PREFIX = "epoch-"
_UNFINISHED = ".unfinished-"


class CheckpointError(SamtuneError):
    """A checkpoint that is missing, damaged, unsafe, or of another trial."""


class Saved(NamedTuple):
    """A checkpoint folder and the SHA-256 of its state."""

    path: Path
    sha256: str


def save(folder: Path, epoch: int, state: dict[str, Any], keep: int = 2) -> Saved:
    """Write and fsync `folder/epoch-<epoch>`, then remove all but the newest checkpoints.

    A crash at any moment leaves every earlier checkpoint whole. Only one process may write to a
    folder.

    Args:
        folder: of the trial's checkpoints.
        epoch: number of the checkpoint.
        state: tensors and plain Python values, which is all that `load` accepts.
        keep: how many checkpoints stay.

    Raises:
        OSError: the disk is full or not writable.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    raw = buffer.getbuffer()
    sha256 = hashlib.sha256(raw).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    if not _newest_first(folder):
        # A folder whose name is not on disk is lost with its first checkpoint.
        durable.sync_folder(folder.parent)
    for leftover in folder.glob(_UNFINISHED + "*"):
        durable.remove(leftover)
    target = folder / f"{_PREFIX}{epoch:05d}"
    unfinished = folder / f"{_UNFINISHED}{target.name}"
    unfinished.mkdir()
    durable.write(unfinished / _STATE, raw)
    durable.write(unfinished / _SUMS, _sums(sha256))
    if target.exists():
        # A damaged one of the same epoch. A folder cannot be renamed onto one that is not empty.
        durable.remove(target)
    durable.rename(unfinished, target)
    for old in _newest_first(folder)[keep:]:
        durable.remove(old)
    return Saved(target, sha256)


def verify(path: Path) -> Saved:
    """Return the checkpoint at `path` with its checksum.

    Raises:
        CheckpointError: it is missing, or a single bit of it has changed.
    """
    return Saved(path, _verified(path)[1])


def load(path: Path) -> dict[str, Any]:
    """Return the state saved at `path`, tensors on the CPU. Nothing in it is executed.

    Raises:
        CheckpointError: it is missing, a single bit differs from what was saved, or it holds more
            than tensors and plain values.
    """
    raw, _ = _verified(path)
    try:
        state = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path / _STATE} holds more than tensors and plain values and was refused: {error}"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path / _STATE} holds a {type(state).__name__}, not a state")
    return state


def latest(folder: Path) -> Path | None:
    """Return the newest checkpoint in `folder` that is whole, or None; warn of damaged ones."""
    for path in _newest_first(folder):
        try:
            verify(path)
        except CheckpointError as error:
            warn(f"{error}; going on from the one before it")
        else:
            return path
    return None


def refuse_other_trial(path: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raise CheckpointError, naming each word that differs, unless the two trials are equal."""
    differing = [
        f"{word} is {theirs.get(word)!r} there and {ours.get(word)!r} here"
        for word in sorted({*theirs, *ours})
        if theirs.get(word) != ours.get(word)
    ]
    if differing:
        raise CheckpointError(
            f"checkpoint {path} belongs to another trial: {'; '.join(differing)}; "
            "give this trial a folder of its own"
        )


def seed_rng(seed: int, rank: int = 0) -> None:
    """Seed the global generators of Python, NumPy and torch, which dropout and others use.

    Each rank gets random numbers of its own, as it has other samples.
    """
    if rank:
        seed = int(np.random.SeedSequence((seed, rank)).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state(device: torch.device) -> dict[str, Any]:
    """Return the states of the global generators, that of `device` included, as plain values."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, np.asarray(keys).tolist(), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore_rng(state: Mapping[str, Any], device: torch.device) -> None:
    """Set the global generators to a state from `rng_state`."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob(_PREFIX + "*"), key=lambda path: (len(path.name), path.name))[::-1]


def _sums(sha256: str) -> bytes:
    return f"{sha256}  {_STATE}\n".encode()


def _verified(path: Path) -> tuple[bytes, str]:
    """Return the bytes of a checkpoint's state and their SHA-256."""
    try:
        raw, sums = (path / _STATE).read_bytes(), (path / _SUMS).read_bytes()
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} is not whole: {error}") from error
    sha256 = hashlib.sha256(raw).hexdigest()
    if sums != _sums(sha256):
        raise CheckpointError(f"checkpoint {path} is damaged: {_STATE} does not match {_SUMS}")
    return raw, sha256
