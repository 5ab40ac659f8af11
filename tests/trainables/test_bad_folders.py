"""Folders with images that cannot be used: an error names the file, or it does not count."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from image_files import classes, picture, put

from trainables import datasets
from trainables.data import DataError, load

pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return tmp_path / "mine"


def tiny(folder: Path) -> Path:
    """TinyImageNet's layout; returns its annotations."""
    for name in ("n1", "n2"):
        for k in range(4):
            put(folder / "train" / name / "images" / f"{name}_{k}.JPEG")
    for k in range(4):
        put(folder / "val" / "images" / f"val_{k}.JPEG")
    put(folder / "test" / "images" / "test_0.JPEG")
    rows = [f"val_{k}.JPEG\tn{k % 2 + 1}\t0\t0\t7\t7\n" for k in range(4)]
    put(folder / "val" / "val_annotations.txt", "".join(rows).encode())
    return folder / "val" / "val_annotations.txt"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda raw: raw[: len(raw) // 2], r"val_2\.JPEG has no line in val_annotations\.txt"),
        (lambda _: b"", r"val_0\.JPEG has no line in val_annotations\.txt"),
        (lambda raw: raw[:-16], r"val_3\.JPEG has no line"),
        (lambda raw: raw + b"val_9.JPEG\tn1\n", r"names val_9\.JPEG, and there is no such image"),
        (lambda raw: raw + b"\xff\xfe", r"val/val_annotations\.txt is no text: .* position 88"),
    ],
)
def test_annotations_and_images_that_do_not_match(
    mine: Path, change: Callable[[bytes], bytes], match: str
) -> None:
    annotations = tiny(mine)
    whole = datasets.find(f"folder:{mine}")
    assert whole.parts["test"].labels.tolist() == [0, 1, 0, 1]
    annotations.write_bytes(change(annotations.read_bytes()))
    with pytest.raises(DataError, match=match):
        load({"dataset": f"folder:{mine}"}, 1)


@pytest.mark.parametrize(
    "parts",
    [("train", "validation"), ("Train", "Test"), ("Training", "Testing"), ("TRAIN", "dev")],
)
def test_folders_of_parts_by_any_of_their_names(mine: Path, parts: tuple[str, str]) -> None:
    for part in parts:
        classes(mine / part, "a cat", "über größe 猫")
    source = datasets.find(f"folder:{mine}")
    assert source.class_names == ("a cat", "über größe 猫")
    assert [len(source.parts[part].labels) for part in ("train", "test")] == [12, 12]


def beside(folder: Path) -> None:
    classes(folder / "train", "ant", "bee")
    put(folder / "samples" / "1.png")


def class_called_train(folder: Path) -> None:
    classes(folder, "bus", "car", "train")


def unsorted(folder: Path) -> None:
    classes(folder / "train", "ant", "bee")
    put(folder / "val" / "ILSVRC2012_val_00000001.JPEG")


def other_classes(folder: Path) -> None:
    classes(folder / "train", "ant", "bee")
    classes(folder / "test", "Ant", "Bee")


def gif(folder: Path) -> None:
    classes(folder, "ant", "bee")
    put(folder / "cow" / "1.GIF", picture(form="GIF"))


def dangling(folder: Path) -> None:
    classes(folder, "ant", "bee")
    (folder / "ant" / "9.png").symlink_to(folder / "none.png")


def colour_among_grey(folder: Path) -> None:
    classes(folder / "train", "ant", "bee", count=40, mode="L")
    put(folder / "train" / "bee" / "9.png")


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (beside, "samples/1.png lies beside train/; move it in there, or out"),
        (class_called_train, r"train/0.png is in no folder of a class; .* if train is itself a c"),
        (unsorted, r"val/ILSVRC2012_val_00000001.JPEG is in no folder .* put it into val/CLASS/"),
        (other_classes, "test/Ant/0.png is of class 'Ant', which no training image has"),
        (gif, r"cow/1.GIF is an image of a kind that is not read; make it one of .jpg"),
        (dangling, "ant/9.png cannot be read: No such file"),
        (colour_among_grey, r"bee/9.png is in colour \(RGB\), and those .* first are grey"),
    ],
)
def test_images_that_would_go_astray_are_told(
    mine: Path, make: Callable[[Path], None], match: str
) -> None:
    make(mine)
    with pytest.raises(DataError, match=match):
        load({"dataset": f"folder:{mine}"}, 1)


def test_files_that_are_not_images_count_for_nothing_and_links_count_once(mine: Path) -> None:
    classes(mine, "ant", "bee")
    name = f"folder:{mine}"
    before = datasets.find(name)
    for hidden in (".DS_Store", "ant/Thumbs.db", "ant/._1.png", ".git/x.png", "__MACOSX/._1.png"):
        put(mine / hidden, b"x")
    (mine / "cow").mkdir()
    (mine / "ant" / "up").symlink_to(mine)
    elsewhere = mine.rename(mine.with_name("elsewhere"))
    mine.symlink_to(elsewhere)
    again = datasets.find(name)
    assert again.class_names == ("ant", "bee") and again.sha256 == before.sha256


def test_modes_and_endings_of_images(mine: Path) -> None:
    classes(mine, "ant", "bee", count=8)
    for mode, form, name in (
        ("L", "JPEG", "a.JPEG"),
        ("CMYK", "JPEG", "b.JpG"),
        ("RGBA", "PNG", "c.PNG"),
        ("P", "PNG", "d.png"),
        ("LA", "WEBP", "e.WebP"),
    ):
        put(mine / "train" / "ant" / name, picture(100, mode, form))
    put(mine / "train" / "bee" / "b.png", picture(0))
    classes(mine / "test", "ant", "bee", mode="L")
    for name in ("ant", "bee"):
        (mine / name).rename(mine / "train" / name / "more")
    parts = datasets.find(f"folder:{mine}").parts
    assert parts["train"].images.shape == (22, 3, 8, 8)
    assert parts["test"].images.shape == (12, 3, 8, 8), "grey, beside a part in colour"
    assert all(abs(image.mean() - 100) < 3 for image in parts["train"].images[:5])


def test_names_that_are_no_utf_8(mine: Path) -> None:
    classes(mine, "ant", "bee")
    try:
        put(Path(os.fsdecode(os.fsencode(mine / "bee") + b"/caf\xe9.png")))
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    source = datasets.find(f"folder:{mine}")
    assert sum(len(part.labels) for part in source.parts.values()) == 13


def test_a_disk_that_fails_is_told_with_the_file(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes(mine, "ant", "bee")

    def fails(file: Any, _: str) -> None:
        raise OSError(5, "Input/output error", file.name)

    with monkeypatch.context() as broken:
        broken.setattr(hashlib, "file_digest", fails)
        with pytest.raises(DataError, match=r"ant/0\.png cannot be read: Input/output error"):
            datasets.find(f"folder:{mine}")

    def refused(path: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as broken:
        broken.setattr(os, "scandir", refused)
        with pytest.raises(DataError, match="mine cannot be read: Permission denied"):
            datasets.find(f"folder:{mine}")
