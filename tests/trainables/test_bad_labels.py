"""Parquet files with wrong labels, columns or splits: an error names the file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_files import picture
from typed import typed

from trainables import data, datasets
from trainables.data import DataError, load, open_test
from trainables.datasets import WordError

pytestmark = pytest.mark.usefixtures("root")

KIND = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return tmp_path / "mine"


def table(
    folder: Path,
    labels: object,
    file: str = "train.parquet",
    names: Sequence[str] | dict[str, Sequence[str]] = (),
    column: str = "label",
    **columns: object,
) -> Path:
    """Write an image per label; `names` are the class names of `column`, or of each column."""
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
    code, _, said = typed(capsys, "data", "fetch", name)
    assert code == 5 and "a fault of samtune's" not in said


@pytest.mark.parametrize("kind", [pa.bool_(), pa.uint8(), pa.int32()])
def test_labels_of_parquet_are_whole_numbers_of_any_size(mine: Path, kind: pa.DataType) -> None:
    table(mine, pa.array([0, 1, 1] * 4).cast(kind))
    assert data.make_ready({"dataset": f"parquet:{mine}"}) == ((3, 8, 8), 2)
    table(mine, pa.array([0, 11] * 6))
    assert len(datasets.find(f"parquet:{mine}").class_names) == 12


def fine_and_coarse(folder: Path) -> None:
    """Write classes and superclasses, as CIFAR-100 has them at Hugging Face."""
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
        code, _, said = typed(capsys, *words)
        assert code == 2, said
        assert "has no column 'coarse_labels'; did you mean coarse_label?" in said
    task = f"task.dataset=parquet:{mine}#coarse_label"
    code, out, _ = typed(capsys, "run", "sgd", "--dry-run", "--json", "--set", task)
    assert code == 0
    assert f"parquet:{mine}#coarse_label" in out


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
