"""Columns of Parquet files that do not hold what they should: each is named for what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_files import picture

from trainables import datasets
from trainables.data import DataError, load

pytestmark = pytest.mark.usefixtures("root")

RAW = picture()
KIND = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
WHOLE = [{"bytes": RAW, "path": "x.png"}] * 12
LABELS = [0, 1] * 6


def write(
    folder: Path, images: Any = None, labels: Any = None, names: object = None, file: str = "train"
) -> Path:
    images = pa.array(WHOLE, KIND) if images is None else images
    labels = LABELS if labels is None else labels
    table = pa.table({"image": images, "label": labels})
    if names is not None:
        about = {"info": {"features": {"label": {"names": names}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    folder.mkdir(exist_ok=True)
    pq.write_table(table, folder / f"{file}.parquet")
    return folder


@pytest.mark.parametrize(
    "images",
    [
        pa.array([RAW] * 12),
        pa.array([RAW] * 12, pa.large_binary()),
        pa.array([RAW] * 12).dictionary_encode(),
        pa.array([{"bytes": RAW}] * 12),
    ],
    ids=["binary", "large", "dictionary", "no path"],
)
def test_images_of_every_binary_type(tmp_path: Path, images: pa.Array) -> None:
    write(tmp_path / "mine", images)
    assert load({"dataset": f"parquet:{tmp_path}/mine"}, 1).train.images.shape[1:] == (3, 8, 8)


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (
            pa.array([*WHOLE[:7], None, *WHOLE[:4]], KIND),
            r"image 7 of .*/train\.parquet is null in column 'image'; remove the row",
        ),
        (pa.nulls(12), r"column 'image' of .*/train\.parquet is null in every row"),
        (pa.nulls(12, KIND), r"image 0 of .*/train\.parquet is null in column 'image'"),
        (
            pa.array([WHOLE[:2]] * 12, pa.list_(KIND)),
            r"column 'image' of .*train\.parquet holds a list of images per row .* one image per",
        ),
        (pa.array([[RAW]] * 12), "holds a list of images per row"),
        (
            pa.array([np.zeros((2, 2), int).tolist()] * 12),
            r"column 'image' of .* holds lists of pixel values .*, not encoded .*`Image\(\)`",
        ),
        (pa.array([[0.5, 0.2]] * 12, pa.list_(pa.float32(), 2)), "holds lists of pixel values"),
        (pa.array([3] * 12), r"column 'image' of .* is of type int64, and must hold the bytes"),
        (pa.array(["a.png"] * 12), r"has no bytes in it, only paths .*embed_table_storage"),
        (
            pa.array([{"path": "a.png"}] * 12),
            r"no bytes in it, only .*'path'.*embed_table",
        ),
        (
            pa.array([{"bytes": None, "path": "a.png"}] * 12, KIND),
            r"image 0 of .*parquet has no bytes in it, only a path \('a.png' in column 'image'\); "
            r"to embed .*`from datasets.table import embed_table_storage`",
        ),
        (
            pa.array([*WHOLE[:9], {"bytes": None, "path": None}], KIND),
            "image 9 of .* has neither bytes nor a path in column 'image'",
        ),
        (pa.array([{"bytes": "text", "path": ""}] * 12), "has bytes of type string"),
    ],
)
def test_images_that_are_none(tmp_path: Path, images: pa.Array, match: str) -> None:
    write(tmp_path / "mine", images, ([0, 1] * 6)[: len(images)])
    with pytest.raises(DataError, match=match):
        load({"dataset": f"parquet:{tmp_path}/mine"}, 1)


@pytest.mark.parametrize(
    ("labels", "names", "match"),
    [
        (
            pa.array([0, 1, 2**64 - 1] * 4, pa.uint64()),
            None,
            r"row 2 of .*train.parquet has label 18446744073709551615 in column 'label'",
        ),
        ([0.0, 1.0, float("nan")] * 4, None, r"are of type double \(row 2 is nan\), and must be"),
        ([0.0, 1.5] * 6, None, r"are of type double \(row 1 is 1.5\)"),
        (
            [0.0, None] * 6,
            None,
            "has 6 rows without a label in column 'label', .* row 1",
        ),
        (
            [0, 1, None] * 4,
            None,
            "has 4 rows without a label in column 'label', .* row 2",
        ),
        (pa.nulls(12), None, "has 12 rows without a label"),
        (
            [0, 1, -3] * 4,
            None,
            r"image 2 of the train split of .* \(row 2 of column 'label' in train.parquet\) has "
            "label -3, and labels go from 0 to 1",
        ),
        ([0, 1, 2] * 4, ["cat", "dog"], "has label 2, and labels go from 0 to 1"),
        (LABELS, ["cat", "cat"], r"train.parquet calls two classes 'cat': labels 0 and 1 of colu"),
        (LABELS, ["a", "b", "a"], "two classes 'a': labels 0 and 2"),
    ],
)
def test_labels_that_are_none(tmp_path: Path, labels: Any, names: object, match: str) -> None:
    write(tmp_path / "mine", labels=labels, names=names)
    with pytest.raises(DataError, match=match):
        load({"dataset": f"parquet:{tmp_path}/mine"}, 1)


@pytest.mark.parametrize("names", [None, "cat", {"0": "cat"}, 7])
def test_class_names_that_are_no_list_are_numbers(tmp_path: Path, names: object) -> None:
    write(tmp_path / "mine", names=names)
    assert datasets.find(f"parquet:{tmp_path}/mine").class_names == ("0", "1")


def test_a_row_is_counted_in_its_own_file(tmp_path: Path) -> None:
    write(tmp_path / "mine", names=["a", "b"], file="train-00000-of-00002")
    write(tmp_path / "mine", labels=[0, 1, 5] * 4, names=["a", "b"], file="train-00001-of-00002")
    match = r"image 14 of the train split .* \(row 2 of .* in train-00001-of-00002.parquet\) has"
    with pytest.raises(DataError, match=match):
        load({"dataset": f"parquet:{tmp_path}/mine"}, 1)


def test_a_class_without_a_training_image_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "mine", names=["a", "b", "c"])
    write(tmp_path / "mine", labels=[0, 1, 2] * 4, names=["a", "b", "c"], file="test")
    match = "class 'c' of .* has no training image, and 4 in the test split"
    with pytest.raises(DataError, match=match):
        load({"dataset": f"parquet:{tmp_path}/mine"}, 1)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    images = pa.array(WHOLE, KIND)
    table = pa.Table.from_arrays([images, images, pa.array(LABELS)], ["image", "image", "label"])
    (tmp_path / "mine").mkdir()
    pq.write_table(table, tmp_path / "mine" / "train.parquet")
    with pytest.raises(DataError, match="has two columns 'image'; rename one"):
        load({"dataset": f"parquet:{tmp_path}/mine"}, 1)
