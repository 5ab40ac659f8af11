"""Data sets in archives: fetched whole or not at all, mapped right, and every bad one told."""

from __future__ import annotations

import http.server
import json
import multiprocessing
import os
import pickle
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tiny_sets import cifar10_files, left_in, official, pixels, tar_of
from typed import typed

from trainables import datasets
from trainables.data import DataError, load, open_test
from trainables.datasets import catalogue, store
from trainables.datasets.archive import ARCHIVES

DOWNLOAD = 2  # torchvision asks where the file is, and then for the file

pytestmark = pytest.mark.usefixtures("root")


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
    ARCHIVES["cifar10"] = archive
    said: list[str] = []
    catalogue.fetch("cifar10", None, 0, said.append)
    answers.put((datasets.find("cifar10").sha256, said))


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


def test_a_download_with_one_other_bit_is_refused(
    server: Server, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tar_of(cifar10_files())
    official(monkeypatch, "cifar10", raw, server.url)
    (tmp_path / "served" / "cifar-10-python.tar.gz").write_bytes(raw[:-1] + b"?")
    with pytest.raises(DataError, match="cannot be downloaded"):
        catalogue.fetch("cifar10", None, 0, print)
    assert left_in(root) == []


@pytest.mark.parametrize("name", ["cifar10", "tinyimagenet", "cifar100c"])
def test_a_check_of_a_set_that_is_missing_says_what_to_type(
    name: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, said = typed(capsys, "data", "check", name)
    assert code == 5
    assert f"{name} is not in {root}; type: samtune data fetch {name}" in said
    assert f"samtune data fetch {name} --from-file " in said


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
    images = store.opened("cifar10").parts["train"].images
    assert isinstance(images, np.memmap)
    images[:] = 0
    store.verify("cifar10")
