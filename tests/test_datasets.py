"""Data sets: fetched whole or not at all, mapped right, and every bad input told."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import io
import json
import multiprocessing
import os
import pickle
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import CIFAR10, REAL, needs_real_images
from PIL import Image

from samtune.cli import main
from samtune.space import SearchSpace, SpaceError
from trainables import data, datasets
from trainables.data import DataError, load, open_test
from trainables.datasets import catalogue, paths, store
from trainables.datasets.archive import ARCHIVES
from trainables.split import Streamed

CLASSES = ("ant", "bee", "cow")
DOWNLOAD = 2  # torchvision asks where the file is, and then for the file


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data root, and no split of the test before."""
    folder = tmp_path / "root"
    monkeypatch.setenv("SAMTUNE_DATA_ROOT", str(folder))
    data._train_val.cache_clear()
    data._test.cache_clear()
    return folder


def left_in(root: Path) -> list[str]:
    """What there is but for locks."""
    return sorted(path.name for path in root.glob("*") if path.suffix != ".lock")


def typed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(words)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


# Archives in the official layouts, tiny.


def pixels(count: int, seed: int, side: int = 32) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3, side, side), dtype=np.uint8)


def tar_of(files: dict[str, bytes], extra: tuple[tarfile.TarInfo, ...] = ()) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, raw in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(raw)
            tar.addfile(about, io.BytesIO(raw))
        for about in extra:
            tar.addfile(about)
    return packed.getvalue()


def cifar10_files(labels: list[int] | None = None) -> dict[str, bytes]:
    """50 training and 20 test images of ten classes."""
    files: dict[str, object] = {
        f"data_batch_{k}": {
            "data": pixels(10, k).reshape(10, -1),
            "labels": list(range(10)) if labels is None else labels,
        }
        for k in range(1, 6)
    }
    files["test_batch"] = {"data": pixels(20, 9).reshape(20, -1), "labels": [*range(10)] * 2}
    files["batches.meta"] = {"label_names": CIFAR10}
    inside = {name: pickle.dumps(content, protocol=2) for name, content in files.items()}
    return {f"cifar-10-batches-py/{name}": raw for name, raw in inside.items()}


def official(monkeypatch: pytest.MonkeyPatch, name: str, raw: bytes, url: str = "") -> None:
    """Makes `raw` the official archive of a set, at `url`."""
    archive = dataclasses.replace(
        ARCHIVES[name],
        md5=hashlib.md5(raw).hexdigest(),
        sha256=hashlib.sha256(raw).hexdigest(),
        size=len(raw),
    )
    url = f"{url}/{archive.file}" if url else archive.url
    monkeypatch.setitem(ARCHIVES, name, dataclasses.replace(archive, url=url))


@pytest.fixture
def cifar_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    raw = tar_of(cifar10_files())
    official(monkeypatch, "cifar10", raw)
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(raw)
    return path


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder on this machine, and counts the GETs."""

    gets = 0

    def __init__(self, folder: Path) -> None:
        server = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                server.gets += 1
                super().do_GET()

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "served"
    folder.mkdir()
    with Server(folder) as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


# Fetching.


def test_cifar_is_downloaded_checked_and_mapped(
    server: Server,
    tmp_path: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    raw = tar_of(cifar10_files())
    (tmp_path / "served" / "cifar-10-python.tar.gz").write_bytes(raw)
    official(monkeypatch, "cifar10", raw, server.url)
    code, _, err = typed(capsys, "data", "fetch", "cifar10")
    assert code == 0 and "50 + 20 images of 3 x 32 x 32, 10 classes" in err
    assert left_in(root) == ["cifar10"] and server.gets == DOWNLOAD
    files = {path.name for path in (root / "cifar10").iterdir()}
    assert files == {
        *("manifest.json", "train-images.npy", "train-labels.npy"),
        *("test-images.npy", "test-labels.npy"),
    }
    source = datasets.find("cifar10")
    train = np.concatenate([pixels(10, k) for k in range(1, 6)])
    assert np.array_equal(source.parts["train"].images, train)
    assert np.array_equal(source.parts["test"].images, pixels(20, 9))
    assert source.mean == pytest.approx(train.mean(axis=(0, 2, 3)))
    assert source.std == pytest.approx(
        train.reshape(50, 3, -1).swapaxes(0, 1).reshape(3, -1).std(1), 1e-3
    )
    assert typed(capsys, "data", "fetch", "cifar10")[0] == 0 and server.gets == DOWNLOAD
    drawn = load({"dataset": "cifar10", "val_size": 0.2}, 1)
    assert len(drawn.train) == 40 and len(drawn.val) == 10
    assert len(open_test({"dataset": "cifar10"}, 1, "a test")) == 20


def test_cifar_from_a_file_by_hand(cifar_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = typed(capsys, "data", "fetch", "cifar10", "--from-file", str(cifar_file))
    assert code == 0 and "10 classes" in err
    assert cifar_file.exists()
    code, out, _ = typed(capsys, "data", "list", "--json")
    rows = {row["name"]: row for row in json.loads(out)["sets"]}
    assert rows["cifar10"]["state"] == "ready" and rows["cifar100"]["state"] == "missing"
    assert rows["digits"]["state"] == "shipped"


def test_cifar100_has_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = [3, 1, 4, 1, 5]
    batch = {"data": pixels(5, 0).reshape(5, -1), "fine_labels": labels, "coarse_labels": [0] * 5}
    meta = {"fine_label_names": [f"class {k}" for k in range(100)], "coarse_label_names": ["x"]}
    files = {"train": batch, "test": batch, "meta": meta}
    raw = tar_of({f"cifar-100-python/{n}": pickle.dumps(c, 2) for n, c in files.items()})
    official(monkeypatch, "cifar100", raw)
    (tmp_path / "archive").write_bytes(raw)
    catalogue.fetch("cifar100", tmp_path / "archive", 0, print)
    source = datasets.find("cifar100")
    assert source.parts["train"].labels.tolist() == labels and len(source.class_names) == 100


def test_a_trial_says_what_is_missing_where_and_what_to_type(root: Path) -> None:
    with pytest.raises(DataError) as told:
        load({"dataset": "cifar10"}, 1)
    for word in (str(root), "samtune data fetch cifar10 (170 MB)", "--from-file cifar-10-python"):
        assert word in str(told.value)
    with pytest.raises(DataError, match="fetch tinyimagenet"):
        load({"dataset": "tinyimagenet"}, 1)
    with pytest.raises(DataError, match=r"imagenet is not in .*train/CLASS"):
        load({"dataset": "imagenet"}, 1)


def test_without_a_network_it_says_how_to_carry_the_file(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    official(monkeypatch, "cifar10", b"x", "http://127.0.0.1:9")
    code, _, err = typed(capsys, "data", "fetch", "cifar10")
    assert code == 5 and "cannot be downloaded" in err
    assert "samtune data fetch cifar10 --from-file cifar-10-python.tar.gz" in err
    assert left_in(root) == []


def fetch_and_say(archive: object, root: str, answers: object) -> None:
    os.environ["SAMTUNE_DATA_ROOT"] = root
    ARCHIVES["cifar10"] = archive  # type: ignore[assignment]
    said: list[str] = []
    catalogue.fetch("cifar10", None, 0, said.append)
    answers.put((datasets.find("cifar10").sha256, said))  # type: ignore[attr-defined]


@pytest.mark.slow
def test_of_several_processes_one_downloads_and_the_others_wait(
    server: Server, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tar_of(cifar10_files())
    (tmp_path / "served" / "cifar-10-python.tar.gz").write_bytes(raw)
    official(monkeypatch, "cifar10", raw, server.url)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    workers = [
        context.Process(target=fetch_and_say, args=(ARCHIVES["cifar10"], str(root), answers))
        for _ in range(8)
    ]
    for worker in workers:
        worker.start()
    got = [answers.get(timeout=100) for _ in workers]
    for worker in workers:
        worker.join()
    assert server.gets == DOWNLOAD
    assert len({sha256 for sha256, _ in got}) == 1
    assert left_in(root) == ["cifar10"]


# Archives that are not what they should be.


def refused(name: str, path: Path, root: Path, match: str) -> None:
    with pytest.raises(DataError, match=match):
        catalogue.fetch(name, path, 0, print)
    assert left_in(root) == []


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


def test_a_download_with_one_other_bit_is_refused(
    server: Server, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tar_of(cifar10_files())
    official(monkeypatch, "cifar10", raw, server.url)
    (tmp_path / "served" / "cifar-10-python.tar.gz").write_bytes(raw[:-1] + b"?")
    with pytest.raises(DataError, match="cannot be downloaded"):
        catalogue.fetch("cifar10", None, 0, print)
    assert left_in(root) == []


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


# What lies in the root.


def test_what_samtune_did_not_make_is_left_alone(
    cifar_file: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "cifar10").mkdir(parents=True)
    (root / "cifar10" / "mine").touch()
    with pytest.raises(DataError, match="cifar10 was not made by samtune; move it"):
        catalogue.fetch("cifar10", cifar_file, 0, print)
    assert (root / "cifar10" / "mine").exists()
    code, out, _ = typed(capsys, "data", "check")
    assert code == 5 and "it is not samtune's" in out


@pytest.mark.parametrize("file", ["train-images.npy", "test-labels.npy"])
def test_check_sees_a_single_bit_and_fetch_mends_it(
    cifar_file: Path, root: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    catalogue.fetch("cifar10", cifar_file, 0, print)
    path = root / "cifar10" / file
    raw = bytearray(path.read_bytes())
    raw[200] ^= 1
    path.write_bytes(raw)
    code, out, _ = typed(capsys, "data", "check")
    assert code == 5 and "damaged" in out and file in out
    code, _, err = typed(capsys, "data", "check", "cifar10")
    assert code == 5 and f"{path} is damaged: its SHA-256 has changed" in err
    catalogue.fetch("cifar10", cifar_file, 0, print)
    assert typed(capsys, "data", "check", "cifar10")[0] == 0


@pytest.mark.parametrize("damage", ["cut", "gone", "manifest"])
def test_a_trial_refuses_a_damaged_set(cifar_file: Path, root: Path, damage: str) -> None:
    catalogue.fetch("cifar10", cifar_file, 0, print)
    folder = root / "cifar10"
    match damage:
        case "cut":
            images = folder / "train-images.npy"
            images.write_bytes(images.read_bytes()[:-1])
        case "gone":
            (folder / "test-images.npy").unlink()
        case "manifest":
            (folder / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"is damaged|cannot be read"):
        load({"dataset": "cifar10"}, 1)


def test_a_set_is_mapped_and_what_a_process_writes_stays_its_own(
    cifar_file: Path, root: Path
) -> None:
    catalogue.fetch("cifar10", cifar_file, 0, print)
    images = store.opened("cifar10").parts["train"].images  # type: ignore[union-attr]
    assert isinstance(images, np.memmap)
    images[:] = 0
    store.verify("cifar10")


# Corrupted test images.


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


# Images in files.


def png(image: np.ndarray, form: str = "PNG") -> bytes:
    held = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0).squeeze()).save(held, form)
    return held.getvalue()


def tiny_files() -> dict[str, bytes]:
    """TinyImageNet's layout: three classes of four training images, six validation images."""
    inside = "tiny-imagenet-200"
    files = {f"{inside}/wnids.txt": b"n01\nn02\nn03\n"}
    for label, name in enumerate(("n01", "n02", "n03")):
        for k in range(4):
            raw = png(pixels(1, 10 * label + k, 64)[0])
            files[f"{inside}/train/{name}/images/{name}_{k}.JPEG"] = raw
        files[f"{inside}/train/{name}/{name}_boxes.txt"] = b""
    rows = []
    for k in range(6):
        files[f"{inside}/val/images/val_{k}.JPEG"] = png(pixels(1, 100 + k, 64)[0])
        files[f"{inside}/test/images/test_{k}.JPEG"] = png(pixels(1, 200 + k, 64)[0])
        rows.append(f"val_{k}.JPEG\tn0{k % 3 + 1}\t0\t32\t44\t62")
    files[f"{inside}/val/val_annotations.txt"] = "\n".join(rows).encode()
    return files


def zip_of(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, raw in files.items():
            archive.writestr(name, raw)
    return packed.getvalue()


def test_tinyimagenet_has_its_official_validation_images_for_test(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = zip_of(tiny_files())
    official(monkeypatch, "tinyimagenet", raw)
    (tmp_path / "archive").write_bytes(raw)
    catalogue.fetch("tinyimagenet", tmp_path / "archive", 0, print)
    source = datasets.find("tinyimagenet")
    assert source.class_names == ("n01", "n02", "n03") and set(source.parts) == {"train", "test"}
    assert source.parts["test"].labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert np.array_equal(source.parts["test"].images[4], pixels(1, 104, 64)[0])
    assert np.array_equal(source.parts["train"].images[5], pixels(1, 11, 64)[0])
    # The same files in a folder are the same set.
    for name, held in tiny_files().items():
        path = tmp_path / "here" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(held)
    again = datasets.find(f"folder:{tmp_path}/here/tiny-imagenet-200")
    assert again.class_names == source.class_names
    for part in ("train", "test"):
        assert np.array_equal(again.parts[part].images, source.parts[part].images)
        assert np.array_equal(again.parts[part].labels, source.parts[part].labels)


@pytest.mark.parametrize("name", ["tiny-imagenet-200/../../x", "/x"])
def test_a_zip_archive_that_leads_out_is_refused(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    raw = zip_of(tiny_files() | {name: b""})
    official(monkeypatch, "tinyimagenet", raw)
    (tmp_path / "archive").write_bytes(raw)
    refused("tinyimagenet", tmp_path / "archive", root, "leads out; refused")


def test_an_image_in_an_archive_that_does_not_decode_is_named(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = "tiny-imagenet-200/train/n02/images/n02_2.JPEG"
    raw = zip_of(tiny_files() | {bad: b"no image"})
    official(monkeypatch, "tinyimagenet", raw)
    (tmp_path / "archive").write_bytes(raw)
    refused("tinyimagenet", tmp_path / "archive", root, f"{bad} does not decode")


def folder_of(
    folder: Path, count: int = 10, side: tuple[int, int] = (8, 8), parts: tuple[str, ...] = ("",)
) -> Path:
    for part in parts:
        for label, name in enumerate(CLASSES):
            (folder / part / name).mkdir(parents=True)
            for k in range(count):
                image = np.full((3, *side), 20 * label + k, dtype=np.uint8)
                (folder / part / name / f"{k}.png").write_bytes(png(image))
    return folder


def test_any_folder_of_images(tmp_path: Path, root: Path) -> None:
    name = f"folder:{folder_of(tmp_path / 'mine')}"
    drawn, test = load({"dataset": name}, 1), open_test({"dataset": name}, 1, "a test")
    assert (len(drawn.train), len(drawn.val), len(test)) == (22, 2, 6)
    assert test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert datasets.find(name).class_names == CLASSES
    for split in (drawn.train, drawn.val, test):
        assert torch.equal(split.images[split.rows, 0, 0, 0] // 20, split.labels)
    # A fixed fifth is for test, whatever the seed.
    assert torch.equal(test.rows, open_test({"dataset": name}, 2, "a test").rows)


def test_a_folder_with_parts_and_an_own_size(tmp_path: Path, root: Path) -> None:
    folder = folder_of(tmp_path / "mine", side=(30, 20), parts=("train", "val", "test"))
    task = {"dataset": f"folder:{folder}", "image_size": 16}
    drawn = load(task, 1)
    assert drawn.train.images.shape == (30, 3, 16, 16)
    assert len(drawn.train) == len(drawn.val) == len(open_test(task, 1, "a test")) == 30
    assert torch.equal(drawn.train.images[:, 0, 0, 0].long() // 20, drawn.train.labels)
    assert len(load({**task, "val_size": 0.1}, 1).val) == 3


def test_images_of_several_sizes_ask_for_one(tmp_path: Path, root: Path) -> None:
    folder = folder_of(tmp_path / "mine", side=(30, 20))
    (folder / "bee" / "5.png").write_bytes(png(pixels(1, 0, 9)[0]))
    with pytest.raises(DataError, match=r"bee/5.png is 9 x 9 pixels and the first image 30 x 20;"):
        load({"dataset": f"folder:{folder}"}, 1)
    assert left_in(root) == []
    drawn = load({"dataset": f"folder:{folder}", "image_size": 12}, 1)
    assert drawn.train.images.shape == (24, 3, 12, 12)
    (folder / "bee" / "5.png").unlink()
    folder_of(tmp_path / "parts", parts=("train",))
    folder_of(tmp_path / "parts", side=(9, 9), parts=("test",))
    with pytest.raises(DataError, match=r"train \(3, 8, 8\), test \(3, 9, 9\); set image_size"):
        load({"dataset": f"folder:{tmp_path}/parts"}, 1)


def test_grey_images_have_one_channel_and_resizing_keeps_the_middle(
    tmp_path: Path, root: Path
) -> None:
    folder = folder_of(tmp_path / "mine")
    rings = np.zeros((1, 20, 40), dtype=np.uint8)
    rings[:, :, 10:30] = 200
    for path in folder.rglob("*.png"):
        path.write_bytes(png(rings))
    images = load({"dataset": f"folder:{folder}", "image_size": 10}, 1).train.images
    assert images.shape == (24, 1, 10, 10)
    assert (images[..., 1:-1] == 200).all() and (images > 150).all(), "the rest is black"


def test_a_folder_is_mapped_again_when_its_images_change_and_not_when_touched(
    tmp_path: Path, root: Path
) -> None:
    folder = folder_of(tmp_path / "mine")
    found = partial(datasets.find, f"folder:{folder}")
    first = found()
    made = [path.stat().st_mtime_ns for path in root.glob("*/train-images.npy")]
    os.utime(folder / "ant" / "3.png", (1, 1))
    assert found().sha256 == first.sha256
    assert [path.stat().st_mtime_ns for path in root.glob("*/train-images.npy")] == made
    (folder / "ant" / "3.png").write_bytes(png(pixels(1, 0, 8)[0]))
    assert found().sha256 != first.sha256


def test_a_folder_that_is_too_large_to_map_streams_the_same_images(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = {"dataset": f"folder:{folder_of(tmp_path / 'mine')}"}
    mapped = load(task, 1)
    data._train_val.cache_clear()
    for path in root.glob("folder-*/*"):
        path.unlink()
    monkeypatch.setattr(paths, "MAPPED", 100)
    streamed = load(task, 1)
    assert isinstance(streamed.train, Streamed) and len(streamed.train.images) == 0
    assert streamed.train.images.shape[1:] == (3, 8, 8)
    assert streamed.train.resident(torch.device("cpu")) is streamed.train
    assert torch.allclose(streamed.mean, mapped.mean)
    order = torch.randperm(len(mapped.train))
    for split, other in ((mapped.train, streamed.train), (mapped.val, streamed.val)):
        wanted = list(split.batches(order % len(split), 5, torch.device("cpu")))
        got = list(other.batches(order % len(other), 5, torch.device("cpu")))
        assert [len(labels) for _, labels in got] == [5, 5, 5, 5, 2]
        for (images, labels), (images_too, labels_too) in zip(wanted, got, strict=True):
            assert torch.equal(images, images_too) and torch.equal(labels, labels_too)
    (tmp_path / "mine" / "bee" / "4.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"bee/4.png does not decode: it is empty"):
        list(streamed.train.batches(torch.arange(22), 5, torch.device("cpu")))


def test_imagenet_is_looked_for_in_the_root(root: Path) -> None:
    folder_of(root / "imagenet", count=2, side=(40, 60), parts=("train", "val"))
    drawn = load({"dataset": "imagenet", "image_size": 24}, 1)
    assert drawn.train.images.shape == (6, 3, 24, 24) and drawn.name == "imagenet"
    assert load({"dataset": "imagenet"}, 1).train.images.shape == (6, 3, 224, 224)


def empty(folder: Path) -> None:
    folder.mkdir()


def one_class(folder: Path) -> None:
    folder_of(folder)
    for name in CLASSES[1:]:
        for path in (folder / name).iterdir():
            path.unlink()


def loose(folder: Path) -> None:
    folder.mkdir()
    (folder / "1.png").write_bytes(png(pixels(1, 0, 8)[0]))


def strange(folder: Path) -> None:
    folder_of(folder, parts=("train", "val"))
    (folder / "val" / "cow").rename(folder / "val" / "cat")


def bad_image(folder: Path) -> None:
    folder_of(folder)
    (folder / "cow" / "7.png").write_bytes(b"no image")


def cut_image(folder: Path) -> None:
    folder_of(folder, side=(64, 64))
    raw = png(pixels(1, 0, 64)[0], "JPEG")
    (folder / "cow" / "7.png").write_bytes(raw[: len(raw) // 2])


def deep_image(folder: Path) -> None:
    folder_of(folder)
    Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(folder / "cow" / "7.png")


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (deep_image, r"cow/7.png does not decode: its values have more than 8 bits"),
        (empty, "holds no file that ends in .jpg or"),
        (one_class, "all training images of folder:.* are of one class"),
        (loose, "no image of it at train/CLASS/... nor at CLASS/..."),
        (strange, "val/cat/0.png is of class 'cat', which no training image has"),
        (bad_image, r"cow/7.png does not decode"),
        (cut_image, r"cow/7.png does not decode"),
    ],
)
def test_a_bad_folder_is_told(
    tmp_path: Path, root: Path, make: Callable[[Path], None], match: str
) -> None:
    make(tmp_path / "mine")
    with pytest.raises(DataError, match=match):
        load({"dataset": f"folder:{tmp_path}/mine"}, 1)
    assert left_in(root) == []


# Parquet.


def parquet_of(
    folder: Path,
    file: str = "train-00000-of-00001.parquet",
    labels: list[int] | None = None,
    columns: tuple[str, str] = ("image", "label"),
    change: Callable[[list[dict[str, object]]], None] = lambda _: None,
    names: tuple[str, ...] = CLASSES,
) -> Path:
    folder.mkdir(exist_ok=True)
    held = [k % 3 for k in range(30)] if labels is None else labels
    images = [
        {"bytes": png(np.full((3, 8, 8), 20 * max(label, 0) + k, np.uint8)), "path": f"{k}.png"}
        for k, label in enumerate(held)
    ]
    change(images)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({columns[0]: pa.array(images, kind), columns[1]: pa.array(held, pa.int64())})
    about = {"info": {"features": {columns[1]: {"names": names, "_type": "ClassLabel"}}}}
    table = table.replace_schema_metadata({"huggingface": json.dumps(about)} if names else {})
    pq.write_table(table, folder / file, row_group_size=7)
    return folder


def test_parquet_in_any_of_its_forms(tmp_path: Path, root: Path) -> None:
    folder = parquet_of(tmp_path / "mine", columns=("img", "fine_label"))
    parquet_of(folder, "test-00000-of-00001.parquet", [2, 0, 1], columns=("img", "fine_label"))
    name = f"parquet:{folder}"
    source = datasets.find(name)
    assert source.class_names == CLASSES and set(source.parts) == {"train", "test"}
    assert source.parts["train"].labels.tolist() == [k % 3 for k in range(30)]
    assert source.parts["test"].labels.tolist() == [2, 0, 1]
    assert source.parts["train"].images[:, 0, 0, 0].tolist() == [
        20 * (k % 3) + k for k in range(30)
    ]
    parquet_of(tmp_path / "bare", names=())
    assert datasets.find(f"parquet:{tmp_path}/bare").class_names == ("0", "1", "2")


def test_parquet_that_is_large_asks_to_be_made_ready(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"parquet:{parquet_of(tmp_path / 'mine')}"
    monkeypatch.setattr(paths, "MAPPED", 100)
    with pytest.raises(DataError, match=f"to make it ready type: samtune data fetch {name}"):
        load({"dataset": name}, 1)
    assert typed(capsys, "data", "fetch", name)[0] == 0
    assert len(load({"dataset": name}, 1).train) == 22
    assert typed(capsys, "data", "check", name)[0] == 0
    parquet_of(tmp_path / "mine", labels=[0, 1] * 6)
    code, _, err = typed(capsys, "data", "check", name)
    assert code == 5 and "have changed since they were mapped" in err


def spoil(k: int, raw: bytes | None) -> Callable[[list[dict[str, object]]], None]:
    return lambda images: images[k].update(bytes=raw)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (
            {"columns": ("picture", "label")},
            r"no image column; it has picture, label, .* image or img",
        ),
        ({"columns": ("image", "y")}, r"no label column; it has image, y"),
        (
            {"labels": [0, 1, 3]},
            "image 2 of the train split .* has label 3, and labels go from 0 to 2",
        ),
        ({"labels": [0, 1, -1]}, "has label -1"),
        ({"labels": [1, 1, 1, 1, 1, 1]}, "are of one class"),
        ({"labels": []}, "the train split of parquet:.* is empty"),
        ({"change": spoil(17, b"no image")}, "image 17 of .*parquet does not decode"),
        ({"change": spoil(17, b"")}, "image 17 of .*parquet does not decode: it is empty"),
        ({"change": spoil(17, None)}, "image 17 of .*parquet has no bytes in it, only a path"),
        ({"file": "test-0.parquet"}, r"has no train-\*.parquet"),
        ({"file": "train.csv"}, "holds no file that ends in .parquet"),
    ],
)
def test_bad_parquet_is_told(
    tmp_path: Path, root: Path, words: dict[str, object], match: str
) -> None:
    parquet_of(tmp_path / "mine", **words)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=match):
        load({"dataset": f"parquet:{tmp_path}/mine"}, 1)
    assert left_in(root) == []


def test_a_cut_parquet_file_is_told(tmp_path: Path) -> None:
    file = parquet_of(tmp_path / "mine") / "train-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet cannot be read"):
        load({"dataset": f"parquet:{tmp_path}/mine"}, 1)


@pytest.fixture(scope="session")
def real_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data root that holds the real images; mapped once."""
    return tmp_path_factory.mktemp("real")


@pytest.mark.slow
@needs_real_images
def test_the_real_images_whole(real_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = REAL / "cifar10-jpeg"
    monkeypatch.setenv("SAMTUNE_DATA_ROOT", str(real_root))
    task = {"dataset": f"parquet:{folder}"}
    drawn, test = load(task, 1), open_test(task, 1, "a test")
    assert (len(drawn.train), len(drawn.val), len(test)) == (45_000, 5_000, 10_000)
    assert drawn.train.images.shape == (50_000, 3, 32, 32)
    both = torch.cat([drawn.train.labels, drawn.val.labels]).bincount()
    assert both.tolist() == [5_000] * 10 and drawn.val.labels.bincount().tolist() == [500] * 10
    assert test.labels.bincount().tolist() == [1_000] * 10
    assert sorted(torch.cat([drawn.train.rows, drawn.val.rows]).tolist()) == [*range(50_000)]
    # Krizhevsky's own pixels have 0.4914, 0.4822, 0.4465 and 0.2470, 0.2435, 0.2616.
    assert (drawn.mean / 255).tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-4)
    assert (drawn.std / 255).tolist() == pytest.approx([0.2470, 0.2435, 0.2616], abs=3e-3)
    cats = load({**task, "classes": "cat,dog", "train_size": 0.1}, 1)
    assert cats.train.labels.bincount().tolist() == [450, 450]
    assert cats.train.images.data_ptr() != 0 and len(cats.train.images) == 50_000
    before = os.stat(next(real_root.glob("*/manifest.json"))).st_mtime_ns
    data._train_val.cache_clear()
    load(task, 2)
    assert os.stat(next(real_root.glob("*/manifest.json"))).st_mtime_ns == before


# Names.


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("cifar", "did you mean cifar100?|did you mean cifar10?"),
        ("cifar-10", r"did you mean cifar10\?"),
        ("parket:/x", r"did you mean parquet:/path\?"),
        ("tiny-imagenet", r"did you mean tinyimagenet\?"),
        ("mnist", "there is: digits, cifar10, .* folder:/path"),
        ("folder:", "write folder:/path"),
        ("folder:/no/such/folder", "/no/such/folder does not exist"),
        (7, "unknown data set 7"),
    ],
)
def test_a_name_that_names_nothing(name: object, match: str) -> None:
    with pytest.raises(DataError, match=match):
        data.check_name(name)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("fetch cifar9", "unknown data set 'cifar9'; did you mean cifar10?"),
        ("check cifar9", "unknown data set 'cifar9'; did you mean cifar10?"),
        ("fetch CIFAR10", "did you mean cifar10?"),
        ("fetch mnist", "there is: digits, cifar10, "),
        ("fetch cifar100-c", "did you mean cifar100c?"),
        ("check parquet:", "write parquet:/path"),
        ("fetch folder:/no/such/folder", "/no/such/folder does not exist"),
        ("fetch cifar10 --from-file /no/such.tar.gz", "there is no file /no/such.tar.gz"),
        ("fetch digits --from-file x", "digits comes from no archive; leave --from-file out"),
        ("fetch cifar10 --image-size 8", "leave --image-size out"),
    ],
)
def test_a_wrong_word_typed_is_wrong_usage(
    words: str, said: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = typed(capsys, "data", *words.split())
    assert code == 2 and said in err
    assert left_in(root) == []


def test_a_space_tells_mistakes_in_data_words_by_place(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    words = "dataset: cifar_10\n  classes: 3\n  label_noise_kind: asym\n  severity: 9\n"
    path.write_text(f"samtune: 1\nextends: sgd.yaml\ntask:\n  {words}")
    with pytest.raises(SpaceError) as told:
        SearchSpace.load(path)
    places = (":4:12: dataset: unknown", ":5:12: classes is 3", ":6:21: ", ":7:13: severity is 9")
    assert len(told.value.messages) == 4
    for message, place in zip(told.value.messages, places, strict=True):
        assert place in message
    assert "did you mean cifar10?" in told.value.messages[0]


def test_a_space_makes_paths_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(tmp_path / "mine")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    space = SearchSpace.load("sgd", ["task.dataset=folder:../mine"])
    assert space.task["dataset"] == f"folder:{tmp_path}/mine"


def test_a_sweep_without_its_data_or_model_ends_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = typed(capsys, "run", "sgd", "--set", "task.dataset=cifar10")
    assert code == 5 and "type: samtune data fetch cifar10" in err
    code, _, err = typed(capsys, "run", "sgd", "--set", "task.classes=3,12")
    assert code == 2 and "digits has no class '12'" in err
    for words, said in (
        (("task.train_size=0.001",), "0.001 leaves 1 of 1000 training images for 10 classes"),
        (
            ("task.train_size=0.004", "task.classes=3,5"),
            "0.004 leaves 1 of 203 training images for 2 classes",
        ),
    ):
        code, _, err = typed(capsys, "run", "sgd", *(f"--set={word}" for word in words))
        assert code == 2 and f"samtune: train_size {said}" in err.splitlines()[-1]
    code, _, err = typed(capsys, "run", "sgd", "--set", "task.model=torchvision:resnet18")
    assert code == 2 and "take 3 channels, these images have 1" in err
    assert not (tmp_path / "runs").exists()
    assert typed(capsys, "run", "sgd", "--dry-run", "--set", "task.dataset=cifar10")[0] == 0


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(DataError, match="x is a file"):
        data.check_name(f"parquet:{tmp_path}/x")


def test_known_sets_have_one_size(root: Path) -> None:
    with pytest.raises(DataError, match="all images of digits have one size"):
        load({"dataset": "digits", "image_size": 16}, 1)
    with pytest.raises(DataError, match="only cifar10 and cifar100"):
        open_test({"dataset": "digits", "corruption": "fog"}, 1, "a test")
