"""Images that users bring: labels, splits and files that are not as they should be are told."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from samtune.cli import main
from trainables import data, datasets
from trainables.data import DataError, load, open_test
from trainables.datasets import WordError

KIND = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data root, and no split of the test before."""
    monkeypatch.setenv("SAMTUNE_DATA_ROOT", str(tmp_path / "root"))
    data._train_val.cache_clear()
    data._test.cache_clear()
    return tmp_path / "root"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return tmp_path / "mine"


def typed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0), capsys.readouterr().err


def picture(level: int = 0, mode: str = "RGB", form: str = "PNG") -> bytes:
    held = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), level, np.uint8)).convert(mode).save(held, form)
    return held.getvalue()


# Parquet


def table(
    folder: Path,
    labels: object,
    file: str = "train.parquet",
    names: Sequence[str] | dict[str, Sequence[str]] = (),
    column: str = "label",
    **columns: object,
) -> Path:
    """As many images as labels; `names` are those of `column`'s classes, or of each column's."""
    held = pa.array(labels)
    images = pa.array([{"bytes": picture(k), "path": None} for k in range(len(held))], KIND)
    content = pa.table({"image": images, column: held, **columns})
    if names:
        every = names if isinstance(names, dict) else {column: names}
        about = {"info": {"features": {name: {"names": list(n)} for name, n in every.items()}}}
        content = content.replace_schema_metadata({"huggingface": json.dumps(about)})
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(content, folder / file)
    return folder


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (["cat", "dog"] * 6, r"column 'label' of .*train\.parquet are of type string, and must"),
        (pa.array(["cat", "dog"] * 6).dictionary_encode(), "are of type dictionary"),
        ([[0], [1]] * 6, r"are of type list.*`class_encode_column\(\"label\"\)` makes them that"),
        ([0.0, 1.7] * 6, "are of type double"),
        ([0, 10**9] * 6, "has a label 1000000000 among 12 images, and no class names; number"),
        ([0, 12] * 6, "has a label 12 among 12 images"),
        ([-1] * 12, "image 0 of the train split of .* has label -1"),
        ([0, None] * 6, "has 6 rows without a label"),
    ],
)
def test_labels_of_parquet_that_are_no_numbers_of_classes(
    mine: Path, labels: object, match: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"parquet:{table(mine, labels)}"
    with pytest.raises(DataError, match=match):
        load({"dataset": name}, 1)
    code, said = typed(capsys, "data", "fetch", name)
    assert code == 5 and "a fault of samtune's" not in said


@pytest.mark.parametrize("kind", [pa.bool_(), pa.uint8(), pa.int32()])
def test_labels_of_parquet_are_whole_numbers_of_any_size(mine: Path, kind: pa.DataType) -> None:
    table(mine, pa.array([0, 1, 1] * 4).cast(kind))
    assert data.make_ready({"dataset": f"parquet:{mine}"}) == ((3, 8, 8), 2)
    table(mine, pa.array([0, 11] * 6))
    assert len(datasets.find(f"parquet:{mine}").class_names) == 12


def fine_and_coarse(folder: Path) -> None:
    """As CIFAR-100 is at Hugging Face: classes, and what they are of."""
    names = {"fine_label": ("ant", "bee", "cow"), "coarse_label": ("insect", "mammal")}
    for file, count in (("train-0.parquet", 4), ("test-0.parquet", 2)):
        coarse = pa.array([0, 0, 1] * count)
        table(folder, [0, 1, 2] * count, file, names, "fine_label", coarse_label=coarse)


def test_the_labels_of_a_parquet_set_are_of_the_column_that_is_asked_for(
    mine: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fine_and_coarse(mine)
    found = {
        mark: datasets.find(f"parquet:{mine}{mark}")
        for mark in ("", "#fine_label", "#coarse_label")
    }
    assert found[""].class_names == found["#fine_label"].class_names == ("ant", "bee", "cow")
    assert found["#coarse_label"].class_names == ("insect", "mammal")
    for part in ("train", "test"):
        fine, coarse = (found[mark].parts[part] for mark in ("#fine_label", "#coarse_label"))
        assert found[""].parts[part].labels.tolist() == fine.labels.tolist()
        assert coarse.labels.tolist() == (fine.labels == 2).tolist()
        assert np.array_equal(fine.images, coarse.images)
    name = f"parquet:{mine}#coarse_label"
    assert found["#coarse_label"].name == name
    assert load({"dataset": name, "classes": "mammal,insect"}, 1).classes == 2
    assert typed(capsys, "data", "check", name)[0] == 0
    table(mine / "alone", [0, 1] * 6, names=("insect", "mammal"), column="coarse_label")
    assert datasets.find(f"parquet:{mine}/alone").class_names == ("insect", "mammal")


def test_a_column_of_ones_own_and_a_folder_with_a_mark_in_its_name(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table(mine, [0, 1] * 6, names=("no", "yes"), column="species")
    with pytest.raises(DataError, match=r"no label column; .* as in parquet:/path#column"):
        load({"dataset": f"parquet:{mine}"}, 1)
    monkeypatch.chdir(tmp_path)
    assert datasets.find("parquet:mine#species").name == f"parquet:{mine}#species"
    mine.rename(tmp_path / "a#species")
    assert datasets.find("parquet:a#species#species").class_names == ("no", "yes")
    with pytest.raises(DataError, match="no label column"):
        datasets.find("parquet:a#species")
    with pytest.raises(WordError, match=r"names no folder: .*/b does not exist"):
        datasets.full_name("parquet:b#species")


def test_a_wrong_column_is_wrong_usage_and_a_right_one_is_on_record(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fine_and_coarse(mine)
    wrong = f"parquet:{mine}#coarse_labels"
    for words in (("run", "sgd", "--set", f"task.dataset={wrong}"), ("data", "fetch", wrong)):
        code, said = typed(capsys, *words)
        assert code == 2, said
        assert "has no column 'coarse_labels'; did you mean coarse_label?" in said
    task = f"task.dataset=parquet:{mine}#coarse_label"
    with pytest.raises(SystemExit) as ended:
        main(("run", "sgd", "--dry-run", "--json", "--set", task))
    assert ended.value.code in (0, None)
    assert f"parquet:{mine}#coarse_label" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "sizes"),
    [
        (("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"), (24, 12)),
        (("train-00000-of-00001-b4aaecef", "test-00000-of-00001-00ff"), (12, 12)),
        (("plain_text/train/0000", "plain_text/test/0000"), (12, 12)),
        (("train_00", "test_00"), (12, 12)),
        (("mnist-train", "mnist-test"), (12, 12)),
        (("Train", "Test"), (12, 12)),
        (("training", "evaluation"), (12, 12)),
        (("0000",), (10, 2)),
    ],
)
def test_the_split_is_in_the_names_of_parquet_files(
    mine: Path, files: tuple[str, ...], sizes: tuple[int, int]
) -> None:
    for file in files:
        table(mine / "data", [0, 1] * 6, f"{file}.parquet")
    parts = datasets.find(f"parquet:{mine}").parts
    assert tuple(len(parts[part].labels) for part in ("train", "test")) == sizes


@pytest.mark.parametrize(
    ("files", "match"),
    [
        (("train", "extra"), r"extra\.parquet does not say whether it is train"),
        (
            ("train-00000-of-00003", "train-00002-of-00003", "test-00000-of-00001"),
            r"/train-00001-of-00003\.parquet is missing",
        ),
        (
            ("one/train-00000-of-00001", "two/train-00000-of-00001"),
            r"one/train and .*/two/train both hold all train images .* as in parquet:.*/mine/two$",
        ),
    ],
)
def test_parquet_files_that_would_be_too_many_or_too_few(
    mine: Path, files: tuple[str, ...], match: str
) -> None:
    for file in files:
        table(mine, [0, 1] * 6, f"{file}.parquet")
    with pytest.raises(DataError, match=match):
        load({"dataset": f"parquet:{mine}"}, 1)


def test_files_that_call_their_classes_by_other_names(mine: Path) -> None:
    table(mine, [0, 1] * 6, "train.parquet", ("cat", "dog"))
    table(mine, [0, 1] * 6, "test.parquet", ("dog", "cat"))
    with pytest.raises(DataError, match=r"train\.parquet has other class names than .*/test\.par"):
        load({"dataset": f"parquet:{mine}"}, 1)


def test_files_whose_labels_are_in_other_columns(mine: Path) -> None:
    table(mine, [0, 1] * 6, "train.parquet", column="fine_label", coarse_label=[0, 0] * 6)
    table(mine, [0, 1] * 6, "test.parquet", column="coarse_label")
    with pytest.raises(DataError, match=r"no column 'fine_label'; did you mean coarse_label"):
        load({"dataset": f"parquet:{mine}#fine_label"}, 1)
    table(mine, [0, 1] * 6, "train.parquet", column="label", coarse_label=[0, 1] * 6)
    table(mine, [0, 1] * 6, "test.parquet", column="fine_label", coarse_label=[0, 1] * 6)
    with pytest.raises(DataError, match=r"train\.parquet has no column 'fine_label'"):
        load({"dataset": f"parquet:{mine}"}, 1)
    assert len(load({"dataset": f"parquet:{mine}#coarse_label"}, 1).train) > 0


def test_test_images_whose_labels_are_kept_back_are_none(mine: Path) -> None:
    for file, labels in (("train", [0, 1] * 6), ("validation", [1, 0] * 2), ("test", [-1] * 6)):
        table(mine, labels, f"{file}.parquet", ("cat", "dog"))
    name = f"parquet:{mine}"
    assert open_test({"dataset": name}, 1, "a test").labels.tolist() == [1, 0] * 2
    table(mine, [-1, 0] * 3, "test.parquet", ("cat", "dog"))
    with pytest.raises(DataError, match=r"image 0 of the test split of .* has label -1"):
        datasets.find(name)


# Folders


def put(path: Path, raw: bytes | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture() if raw is None else raw)


def classes(folder: Path, *names: str, count: int = 6, mode: str = "RGB") -> None:
    for label, name in enumerate(names):
        for k in range(count):
            put(folder / name / f"{k}.png", picture(20 * label + k, mode))


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


@pytest.mark.parametrize("name", ["cifar10", "tinyimagenet", "cifar100c"])
def test_a_check_of_a_set_that_is_missing_says_what_to_type(
    name: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = typed(capsys, "data", "check", name)
    assert code == 5
    assert f"{name} is not in {root}; type: samtune data fetch {name}" in said
    assert f"samtune data fetch {name} --from-file " in said
