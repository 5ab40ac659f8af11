"""Truncated, changed or hostile archives are refused, and nothing of them stays."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_sets import cifar10_files, left_in, official, pixels, refused, tar_of
from typed import typed

from trainables.data import DataError, load, open_test
from trainables.datasets import catalogue, store

pytestmark = pytest.mark.usefixtures("root")


def test_a_truncated_archive_is_refused(cifar_file: Path, root: Path) -> None:
    whole = cifar_file.read_bytes()
    cifar_file.write_bytes(whole[:-100])
    size = len(whole)
    refused("cifar10", cifar_file, root, f"has {size - 100} bytes of {size}, so it is cut off")


def test_a_truncated_archive_is_refused_even_with_the_right_checksum(
    cifar_file: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = cifar_file.read_bytes()[:-5000]
    official(monkeypatch, "cifar10", cut)
    cifar_file.write_bytes(cut)
    refused("cifar10", cifar_file, root, "is broken")


def test_an_archive_with_one_other_bit_is_refused(cifar_file: Path, root: Path) -> None:
    raw = bytearray(cifar_file.read_bytes())
    raw[1000] ^= 1
    cifar_file.write_bytes(raw)
    refused("cifar10", cifar_file, root, "its SHA-256 is [0-9a-f]{64} and its MD5")


def link(name: str, target: str) -> tarfile.TarInfo:
    about = tarfile.TarInfo(name)
    about.type, about.linkname = tarfile.SYMTYPE, target
    return about


@pytest.mark.parametrize(
    ("extra", "match"),
    [
        (tarfile.TarInfo("cifar-10-batches-py/../../x"), "leads out; refused"),
        (tarfile.TarInfo("/etc/x"), None),
        (link("cifar-10-batches-py/x", "/etc/passwd"), "a link or a device; refused"),
        (link("cifar-10-batches-py/x", "data_batch_1"), "a link or a device; refused"),
    ],
)
def test_a_tar_archive_that_leads_out_is_refused(
    tmp_path: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    extra: tarfile.TarInfo,
    match: str | None,
) -> None:
    raw = tar_of(cifar10_files(), (extra,))
    official(monkeypatch, "cifar10", raw)
    (tmp_path / "archive").write_bytes(raw)
    refused("cifar10", tmp_path / "archive", root, match or "leads out; refused")


class Malicious:
    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return os.system, ("touch ran",)


def test_a_pickle_that_does_something_is_refused(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = cifar10_files() | {"cifar-10-batches-py/test_batch": pickle.dumps(Malicious(), 2)}
    raw = tar_of(files)
    official(monkeypatch, "cifar10", raw)
    (tmp_path / "archive").write_bytes(raw)
    refused(
        "cifar10", tmp_path / "archive", root, "test_batch cannot be read: it asks for .*system"
    )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (
            [*range(9), 10],
            "image 9 of the train split of cifar10 has label 10, and labels go from 0 to 9",
        ),
        ([-1] * 10, "has label -1"),
        ([4] * 10, "all training images of cifar10 are of one class"),
        ([0, 1], "not laid out as CIFAR"),
    ],
)
def test_labels_that_cannot_be_are_refused(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, labels: list[int], match: str
) -> None:
    raw = tar_of(cifar10_files(labels))
    official(monkeypatch, "cifar10", raw)
    (tmp_path / "archive").write_bytes(raw)
    refused("cifar10", tmp_path / "archive", root, match)


def test_a_full_disk_leaves_nothing(
    cifar_file: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    refused("cifar10", cifar_file, root, "No space left on device.*SAMTUNE_DATA_ROOT")


def test_what_a_killed_process_left_is_swept_up(cifar_file: Path, root: Path) -> None:
    (root / ".unfinished-cifar10").mkdir(parents=True)
    (root / ".unfinished-cifar10" / "train-images.npy").write_bytes(b"half")
    with pytest.raises(DataError, match="fetch cifar10"):
        load({"dataset": "cifar10"}, 1)
    catalogue.fetch("cifar10", cifar_file, 0, print)
    assert left_in(root) == ["cifar10"]


def corrupted_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: list[int]) -> Path:
    files = {}
    for name, array in (
        ("fog", pixels(100, 3).transpose(0, 2, 3, 1)),
        ("labels", np.array(labels * 5, dtype=np.uint8)),
    ):
        held = io.BytesIO()
        np.save(held, array)
        files[f"CIFAR-10-C/{name}.npy"] = held.getvalue()
    raw = tar_of(files)
    official(monkeypatch, "cifar10c", raw)
    (tmp_path / "CIFAR-10-C.tar").write_bytes(raw)
    return tmp_path / "CIFAR-10-C.tar"


def test_corrupted_test_images_by_severity(
    cifar_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    catalogue.fetch("cifar10", cifar_file, 0, print)
    task = {"dataset": "cifar10", "corruption": "fog", "severity": 4}
    with pytest.raises(DataError, match="fetch cifar10c"):
        open_test(task, 1, "a test")
    archive = corrupted_file(tmp_path, monkeypatch, [*range(10)] * 2)
    assert typed(capsys, "data", "fetch", "cifar10c", "--from-file", str(archive))[0] == 0
    assert typed(capsys, "data", "check", "cifar10c")[0] == 0
    split = open_test(task, 1, "a test")
    assert torch.equal(split.images[split.rows], torch.from_numpy(pixels(100, 3)[60:80]))
    assert torch.equal(split.labels, open_test({"dataset": "cifar10"}, 1, "a test").labels)
    some = open_test({**task, "classes": "cat,dog"}, 1, "a test")
    assert len(some) == 4 and some.labels.tolist() == [0, 1, 0, 1]
    with pytest.raises(DataError, match=r"frost\.npy is missing"):
        open_test({**task, "corruption": "frost"}, 1, "a test")
    assert (
        load(task, 1).train.labels.tolist()
        == load({"dataset": "cifar10"}, 1).train.labels.tolist()
    )


def test_corrupted_images_with_other_labels_are_refused(
    cifar_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue.fetch("cifar10", cifar_file, 0, print)
    archive = corrupted_file(tmp_path, monkeypatch, [*range(10)][::-1] * 2)
    catalogue.fetch("cifar10c", archive, 0, print)
    with pytest.raises(DataError, match="other labels than the test images"):
        open_test({"dataset": "cifar10", "corruption": "fog"}, 1, "a test")
