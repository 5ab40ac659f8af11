"""Checkpoints are whole or absent, and no damaged or hostile one is believed."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import faults
import numpy as np
import pytest
import torch

from trainables import checkpoint
from trainables.checkpoint import CheckpointError, latest, load, save, verify


def state(value: float = 1.0) -> dict[str, object]:
    return {"weights": torch.full((3,), value), "epoch": 4, "nested": [{"a": (1, 2.5, None)}]}


def rewrite(path: Path, raw: bytes) -> None:
    """Puts `raw` in place of a checkpoint's state, with a checksum that fits."""
    (path / "state.pt").write_bytes(raw)
    (path / "SHA256SUMS").write_text(f"{hashlib.sha256(raw).hexdigest()}  state.pt\n")


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    saved = save(tmp_path, 4, state())
    loaded = load(saved.path)
    assert torch.equal(loaded.pop("weights"), torch.ones(3))
    assert loaded == {"epoch": 4, "nested": [{"a": (1, 2.5, None)}]}
    assert verify(saved.path) == saved
    assert latest(tmp_path) == saved.path


def test_a_saved_state_is_hashed_once_and_not_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPU defect 3. One hash is enough, and the file is not read again."""
    sha256, hashed = hashlib.sha256, []

    def read(path: Path) -> bytes:
        raise AssertionError(f"{path} is read")

    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "sha256", lambda raw: hashed.append(len(raw)) or sha256(raw))
        patch.setattr(Path, "read_bytes", read)
        saved = save(tmp_path, 1, state())
    assert hashed == [(saved.path / "state.pt").stat().st_size]


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum on this machine")
def test_the_checksum_file_is_one_that_sha256sum_reads(tmp_path: Path) -> None:
    saved = save(tmp_path, 1, state())
    subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=saved.path, check=True)


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for epoch in (1, 2, 3, 99_999, 100_000):
        save(tmp_path, epoch, state(epoch))
    assert sorted(os.listdir(tmp_path)) == ["epoch-100000", "epoch-99999"]
    newest = latest(tmp_path)
    assert newest is not None
    assert newest.name == "epoch-100000"


def test_every_single_flipped_bit_is_detected(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    saved = save(tmp_path, 1, state())
    rng, tried = random.Random(0), 0
    for name in ("state.pt", "SHA256SUMS"):
        file = saved.path / name
        raw = file.read_bytes()
        bits = range(8 * len(raw))
        for bit in rng.sample(bits, min(1000, len(bits))):
            flipped = bytearray(raw)
            flipped[bit // 8] ^= 1 << bit % 8
            file.write_bytes(flipped)
            with pytest.raises(CheckpointError, match="damaged"):
                load(saved.path)
            tried += 1
        file.write_bytes(raw)
    load(saved.path)
    record_property("flipped bits found, checkpoint", f"{tried} of {tried}")


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "no state", "no sums"])
def test_a_damaged_newest_falls_back_to_the_one_before(tmp_path: Path, damage: str) -> None:
    before, newest = save(tmp_path, 1, state(1)), save(tmp_path, 2, state(2))
    file = newest.path / "state.pt"
    raw = file.read_bytes()
    match damage:
        case "flip":
            file.write_bytes(raw[:100] + bytes([raw[100] ^ 4]) + raw[101:])
        case "cut":
            file.write_bytes(raw[:-1])
        case "empty":
            file.write_bytes(b"")
        case "no state":
            file.unlink()
        case "no sums":
            (newest.path / "SHA256SUMS").unlink()
    with pytest.warns(UserWarning, match=r"epoch-00002 is .*the one before"):
        assert latest(tmp_path) == before.path


def test_nothing_to_go_on_from(tmp_path: Path) -> None:
    assert latest(tmp_path / "absent") is None
    saved = save(tmp_path, 1, state())
    (saved.path / "state.pt").write_bytes(b"")
    with pytest.warns(UserWarning):
        assert latest(tmp_path) is None


def test_a_payload_is_refused_and_not_executed(tmp_path: Path) -> None:
    touched = tmp_path / "touched"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(touched),)

    saved = save(tmp_path / "trial", 1, state())
    torch.save({"weights": Payload()}, tmp_path / "hostile.pt")
    rewrite(saved.path, (tmp_path / "hostile.pt").read_bytes())
    with pytest.raises(CheckpointError, match="more than tensors and plain values"):
        load(saved.path)
    assert not touched.exists()
    torch.load(saved.path / "state.pt", weights_only=False)
    assert touched.exists(), "the payload works where it is not refused"


def test_a_checkpoint_that_is_no_state_is_refused(tmp_path: Path) -> None:
    saved = save(tmp_path, 1, state())
    torch.save([1, 2], tmp_path / "list.pt")
    rewrite(saved.path, (tmp_path / "list.pt").read_bytes())
    with pytest.raises(CheckpointError, match="holds a list"):
        load(saved.path)


@pytest.mark.parametrize("kind", ["enospc", "eio"])
def test_a_disk_that_fails_at_any_write_leaves_the_one_before(tmp_path: Path, kind: str) -> None:
    for number in itertools.count(1):
        folder = tmp_path / str(number)
        for epoch in (1, 2):
            save(folder, epoch, state(epoch))
        faults.inject(kind, number)
        try:
            save(folder, 3, state(3))
            break
        except OSError:
            pass
        finally:
            faults.inject(None)
        newest = latest(folder)
        assert newest is not None and newest.name in {"epoch-00002", "epoch-00003"}
        save(folder, 3, state(3))
        assert sorted(os.listdir(folder)) == ["epoch-00002", "epoch-00003"]
    assert number > 10


def test_files_and_folders_are_synced_before_the_rename_and_after(
    tmp_path: Path, synced: list[str]
) -> None:
    first, second = ".unfinished-epoch-00003", ".unfinished-epoch-00004"
    save(tmp_path / "trial", 3, state())
    # The name of the trial's folder itself, once.
    assert synced.pop(0) == tmp_path.name
    save(tmp_path / "trial", 4, state())
    files = ["state.pt", "SHA256SUMS"]
    assert synced == [*files, first, "rename", "trial", *files, second, "rename", "trial"]


def test_the_same_epoch_is_saved_anew_over_a_damaged_one(tmp_path: Path) -> None:
    saved = save(tmp_path, 1, state(1))
    (saved.path / "state.pt").write_bytes(b"")
    assert load(save(tmp_path, 1, state(2)).path)["weights"].tolist() == [2, 2, 2]


def test_every_global_generator_comes_back(tmp_path: Path) -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.normal()), torch.rand(()).item()

    cpu = torch.device("cpu")
    checkpoint.seed_rng(5)
    first = draw()
    saved = save(tmp_path, 1, checkpoint.rng_state(cpu))
    expected = draw()
    checkpoint.seed_rng(5)
    assert draw() == first
    draw()
    checkpoint.restore_rng(load(saved.path), cpu)
    assert draw() == expected


def test_every_rank_draws_apart() -> None:
    draws = []
    for rank in (0, 1, 2, 1):
        checkpoint.seed_rng(5, rank)
        draws.append((random.random(), float(np.random.normal()), torch.rand(()).item()))
    assert draws[3] == draws[1]
    assert all(len(set(each)) == 3 for each in zip(*draws[:3], strict=True))
