"""Odd images: turned by EXIF, with warnings of Pillow's, in TIFF, and of every mode."""

from __future__ import annotations

import io
import logging
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_files import classes, put
from PIL import Image, ImageOps

from trainables import datasets
from trainables.data import DataError, load
from trainables.datasets import store

pytestmark = pytest.mark.usefixtures("root")

# Red, green / blue, white: differs under each of the eight orientations.
CORNERS = [[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 255)]]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return tmp_path / "mine"


def corners(height: int = 16, width: int = 24) -> Image.Image:
    pixels = np.repeat(np.repeat(np.array(CORNERS, np.uint8), height // 2, 0), width // 2, 1)
    return Image.fromarray(pixels)


def saved(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    held = io.BytesIO()
    image.save(held, form, **options)
    return held.getvalue()


def turned(orientation: int, form: str) -> bytes:
    """Return `corners()` stored so that this orientation turns it upright."""
    back = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    exif = Image.Exif()
    exif[0x0112] = back
    image = corners()
    image.info["exif"] = exif.tobytes()
    stored = ImageOps.exif_transpose(Image.open(io.BytesIO(saved(image, "PNG", exif=exif))))
    exif[0x0112] = orientation
    lossless = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}
    return saved(stored, form, exif=exif, **lossless.get(form, {}))


def parquet(folder: Path, images: list[bytes], labels: list[int]) -> Path:
    folder.mkdir(exist_ok=True)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    held = pa.array([{"bytes": raw, "path": None} for raw in images], kind)
    pq.write_table(pa.table({"image": held, "label": labels}), folder / "train.parquet")
    return folder


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("source", ["folder", "parquet"])
def test_all_eight_orientations_are_applied(mine: Path, form: str, source: str) -> None:
    images = [turned(orientation, form) for orientation in range(1, 9)]
    assert len({Image.open(io.BytesIO(raw)).size for raw in images}) == (
        1 if form == "TIFF" else 2
    )
    if source == "folder":
        for k, raw in enumerate(images):
            put(mine / "train" / f"c{k % 2}" / f"{k}.{form.lower()}", raw)
            put(mine / "test" / f"c{k % 2}" / f"{k}.{form.lower()}", raw)
    else:
        parquet(mine, images, [0, 1] * 4)
        (mine / "test.parquet").write_bytes((mine / "train.parquet").read_bytes())
    found = datasets.find(f"{source}:{mine}").parts["train"].images
    assert found.shape == (8, 3, 16, 24)
    wanted = np.asarray(corners()).transpose(2, 0, 1)
    for image in found:
        assert np.abs(np.asarray(image, int) - wanted).mean() < 3


def test_a_turned_image_is_resized_from_its_upright_form(mine: Path) -> None:
    """This includes JPEG that is decoded at a fraction of its size."""
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = corners(160, 480)
    raw = saved(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)
    for name in ("a", "b"):
        for k in range(3):
            put(mine / name / f"{k}.jpg", raw)
            put(mine / name / f"u{k}.png", saved(upright))
    images = datasets.find(f"folder:{mine}", 16).parts["train"].images
    assert images.shape[1:] == (3, 16, 16)
    assert np.abs(images.astype(int) - images[:1]).mean() < 4


def test_exif_that_cannot_be_read_turns_nothing(mine: Path) -> None:
    for name in ("a", "b"):
        for k in range(3):
            put(mine / name / f"{k}.jpg", saved(corners(), "JPEG", exif=b"Exif\0\0II*\0broken"))
    assert datasets.find(f"folder:{mine}").parts["train"].images.shape[1:] == (3, 16, 24)


def test_maps_of_an_older_version_are_made_anew(
    mine: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes(mine, "a", "b")
    name = f"folder:{mine}"
    with monkeypatch.context() as old:
        old.setattr("trainables.datasets.paths._READER", "1.1")
        datasets.find(name)
    made = next(root.glob("folder-*/manifest.json")).stat().st_mtime_ns
    datasets.find(name)
    again = next(root.glob("folder-*/manifest.json")).stat().st_mtime_ns
    assert again > made
    datasets.find(name)
    assert next(root.glob("folder-*/manifest.json")).stat().st_mtime_ns == again
    manifest = store.manifest(next(root.glob("folder-*")).name)
    assert manifest is not None and manifest["origin"]["reader"]


def transparent_palette() -> bytes:
    image = corners().quantize(4)
    return saved(image, transparency=bytes([0, 128, 255, 255]))


def huge() -> bytes:
    """Return a PNG of 100 million pixels, which Pillow takes for a decompression bomb."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", 10_000, 10_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1251 * 10_000), 1)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


WARNED = {
    "palette": transparent_palette,
    "bomb": huge,
    "exif": lambda: saved(corners(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05broken"),
    "icc": lambda: saved(corners(), "PNG", icc_profile=b"no profile"),
    "tiff": lambda: saved(corners(), "TIFF")[:-8],
}


@pytest.mark.parametrize("kind", WARNED)
def test_no_warning_of_pillow_reaches_the_terminal(mine: Path, kind: str) -> None:
    raw = WARNED[kind]()
    ending = {"bomb": "png", "palette": "png", "icc": "png", "tiff": "tif"}.get(kind, "jpg")
    for name in ("a", "b"):
        for k in range(3):
            put(mine / name / f"{k}.{ending}", raw)
    script = (
        "import sys\n"
        "from trainables import datasets\n"
        f"try: datasets.find('folder:{mine}', 8)\n"
        "except datasets.DataError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    # What is wrong with an image is an error that names its file.
    assert done.stdout == "" or f"{mine}/a/0.{ending} does not decode: " in done.stdout


def test_errors_that_pillow_logs_stay_off_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("PIL.TiffImagePlugin").error("more samples")
    assert "more samples" not in capfd.readouterr().err


@pytest.mark.parametrize("mode", ["P", "CMYK", "1", "L", "LA", "RGBA", "RGB"])
def test_images_that_datasets_stores_as_tiff(mine: Path, mode: str) -> None:
    image = corners().quantize(4) if mode == "P" else corners().convert(mode)
    parquet(mine, [saved(image, "TIFF")] * 12, [0, 1] * 6)
    found = datasets.find(f"parquet:{mine}").parts["train"].images
    grey = mode in {"1", "L", "LA"}
    assert found.shape[1:] == (1 if grey else 3, 16, 24)
    wanted = np.asarray(image.convert("L" if grey else "RGB")).reshape(16, 24, -1)
    assert np.array_equal(found[0], wanted.transpose(2, 0, 1))


@pytest.mark.parametrize("ending", ["tif", "TIFF", "bmp", "jfif", "JPG"])
def test_endings_that_are_read(mine: Path, ending: str) -> None:
    form = {"tif": "TIFF", "tiff": "TIFF", "bmp": "BMP"}.get(ending.lower(), "JPEG")
    for name in ("a", "b"):
        for k in range(3):
            put(mine / name / f"{k}.{ending}", saved(corners(), form))
    assert datasets.find(f"folder:{mine}").parts["train"].images.shape[1:] == (3, 16, 24)


@pytest.mark.parametrize(
    ("name", "raw", "match"),
    [
        ("9.gif", b"GIF89a", "a/9.gif is an image of a kind that is not read"),
        ("9.HEIC", b"x", "a/9.HEIC is an image of a kind that is not read"),
        ("9.png", b"", "a/9.png does not decode: it is empty"),
        ("9.png", b"GIF89a..", "a/9.png does not decode: it is no JPEG or PNG"),
        ("9.png", saved(Image.fromarray(np.zeros((16, 24), np.uint16))), "a/9.png .* 8 bits"),
        (
            "9.tif",
            saved(Image.fromarray(np.zeros((16, 24), np.float32)), "TIFF"),
            "9.tif .* 8 bit",
        ),
        ("9.jpg", saved(corners(), "JPEG")[:400], "a/9.jpg does not decode: (?i:.*truncated)"),
    ],
)
def test_images_that_cannot_be_read_are_named(
    mine: Path, name: str, raw: bytes, match: str
) -> None:
    for folder in ("a", "b"):
        for k in range(9):
            put(mine / folder / f"{k}.png", saved(corners()))
    put(mine / "a" / name, raw)
    with pytest.raises(DataError, match=match):
        load({"dataset": f"folder:{mine}"}, 1)


def test_odd_names_of_files_and_classes(mine: Path) -> None:
    """Spaces, other alphabets, capitals, dots, nested folders, links and files beside them."""
    for name in ("a cat", "猫", "Größe", "v1.0", "-x", "0"):
        for k in range(3):
            put(mine / name / "more" / f"{k}.PNG", saved(corners()))
        put(mine / name / "A.png", saved(corners()))
        put(mine / name / "a.png", saved(corners()))
    for stray in (
        ".DS_Store",
        "0/Thumbs.db",
        "0/notes.txt",
        "labels.csv",
        ".git/0.png",
        "top.png",
    ):
        put(mine / stray, b"x")
    (mine / "empty").mkdir()
    (mine / "0" / "link.png").symlink_to(mine / "猫" / "a.png")
    source = datasets.find(f"folder:{mine}")
    assert source.class_names == ("-x", "0", "Größe", "a cat", "v1.0", "猫")
    assert sum(len(part.labels) for part in source.parts.values()) == 31
