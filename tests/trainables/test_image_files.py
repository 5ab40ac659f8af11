"""Data sets of images in files: zip archives, folders and Parquet, and every bad one told."""

from __future__ import annotations

import io
import json
import os
import stat
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import REAL, needs_real_images
from PIL import Image
from tiny_sets import (
    CLASSES,
    folder_of,
    left_in,
    official,
    pixels,
    png,
    refused,
    tiny_files,
    zip_of,
)
from typed import typed

from trainables import data, datasets
from trainables.data import DataError, load, open_test
from trainables.datasets import catalogue, paths
from trainables.split import Streamed

pytestmark = pytest.mark.usefixtures("root")


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


def test_a_zip_archive_with_a_link_is_refused(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = io.BytesIO(zip_of(tiny_files()))
    link = zipfile.ZipInfo("tiny-imagenet-200/x")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(held, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    official(monkeypatch, "tinyimagenet", held.getvalue())
    (tmp_path / "archive").write_bytes(held.getvalue())
    refused("tinyimagenet", tmp_path / "archive", root, "x, which is a link; refused")


def test_an_image_in_an_archive_that_does_not_decode_is_named(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = "tiny-imagenet-200/train/n02/images/n02_2.JPEG"
    raw = zip_of(tiny_files() | {bad: b"no image"})
    official(monkeypatch, "tinyimagenet", raw)
    (tmp_path / "archive").write_bytes(raw)
    refused("tinyimagenet", tmp_path / "archive", root, f"{bad} does not decode")


def test_any_folder_of_images(tmp_path: Path, root: Path) -> None:
    name = f"folder:{folder_of(tmp_path / 'mine')}"
    drawn, test = load({"dataset": name}, 1), open_test({"dataset": name}, 1, "a test")
    assert (len(drawn.train), len(drawn.val), len(test)) == (22, 2, 6)
    assert test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert datasets.find(name).class_names == CLASSES
    for split in (drawn.train, drawn.val, test):
        assert torch.equal(split.images[split.rows, 0, 0, 0] // 20, split.labels)
    one, other = (load({"dataset": name, "val_size": 0.5}, seed).val.rows for seed in (1, 2))
    assert len(one) == 12 and not torch.equal(one, other)
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
    one, other = (load({**task, "train_size": 0.5}, seed).train.rows.tolist() for seed in (1, 2))
    assert len(one) == 15 and one != other, "of an official training set too"


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


def test_imagenet_is_listed_once_as_what_is_there(root: Path) -> None:
    def listed() -> list[tuple[str, str]]:
        found = [entry for entry in catalogue.entries() if entry.name == "imagenet"]
        return [(entry.state, entry.note) for entry in found]

    ((state, note),) = listed()
    assert state == "missing" and note.startswith("put its images at train/CLASS")
    folder_of(root / "imagenet", count=2, side=(40, 60), parts=("train", "val"))
    assert listed() == [("ready", "3 classes of image files, read as they are")]
    load({"dataset": "imagenet", "image_size": 24}, 1)
    assert listed() == [("ready", "6 + 6 images of 3 x 24 x 24, 3 classes")]
    assert [entry.state for entry in catalogue.checked_entries()] == ["shipped", "ready"]


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
    parquet_of(tmp_path / "mine", **words)
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
