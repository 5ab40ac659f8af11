"""Archives of official data sets: downloaded or copied by hand, checked, and read in place.

Nothing is unpacked. Members are read from the archive one by one, after its checksums and all
names in it have been checked.
"""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from trainables.datasets.errors import DataError, WordError
from trainables.datasets.store import Say, root

_BROKEN = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, OSError)


@dataclass(frozen=True)
class Archive:
    """The address of an archive, with its checksums and its size in bytes."""

    url: str
    md5: str
    sha256: str | None
    size: int

    @property
    def file(self) -> str:
        """The file's name."""
        return self.url.rsplit("/", 1)[-1]

    @property
    def origin(self) -> dict[str, str | None]:
        """The manifest's entry for the archive."""
        return {"url": self.url, "md5": self.md5, "sha256": self.sha256}


ARCHIVES: dict[str, Archive] = {
    "cifar10": Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "c58f30108f718f92721af3b95e74349a",
        "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        170498071,
    ),
    "cifar100": Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        "eb9058c3a382ffc7106e4002c42a8d85",
        "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        169001437,
    ),
    # Hendrycks and Dietterich 2019.
    "cifar10c": Archive(
        "https://zenodo.org/records/2535967/files/CIFAR-10-C.tar",
        "56bf5dcef84df0e2308c6dcbcbbd8499",
        "c72763e101c723b7c507b96205f7e938912a5d587376173b825850cf3cb876a7",
        2918471680,
    ),
    "cifar100c": Archive(
        "https://zenodo.org/records/3555552/files/CIFAR-100-C.tar",
        "11f0ed0f1191edbf9fa23466ae6021d3",
        None,
        2918473216,
    ),
    "tinyimagenet": Archive(
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        "90528d7ca1a48142e341f4ef8d21d0de",
        "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
        248100043,
    ),
}


@contextmanager
def checked(name: str, from_file: Path | None, folder: Path, say: Say) -> Iterator[Path]:
    """Yield the path of the checked archive, which is downloaded unless `from_file` names it.

    A downloaded archive lies in `folder` and is removed at the end.

    Raises:
        DataError: The archive cannot be downloaded, or is not the official one.
    """
    archive = ARCHIVES[name]
    if from_file is not None:
        if not from_file.is_file():
            raise WordError(f"there is no file {from_file}")
        _compare(from_file, archive)
        yield from_file
        return
    path = folder / archive.file
    say(f"{name}: {archive.size / 1e6:.0f} MB from {archive.url}")
    try:
        _download(name, archive, folder)
        _compare(path, archive)
        yield path
    finally:
        path.unlink(missing_ok=True)


def _download(name: str, archive: Archive, folder: Path) -> None:
    try:
        from torchvision.datasets.utils import download_url
    except Exception as error:
        raise DataError(
            f"downloads go through torchvision, and it cannot be imported ({error}); get the file "
            f"{archive.url} and type: samtune data fetch {name} --from-file {archive.file}"
        ) from error
    try:
        download_url(archive.url, folder, archive.file, archive.md5)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{archive.url} cannot be downloaded ({error}); without a network, copy the file "
            f"here and type: samtune data fetch {name} --from-file {archive.file}"
        ) from error


def _compare(path: Path, archive: Archive) -> None:
    with path.open("rb") as file:
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        while chunk := file.read(1 << 20):
            sha256.update(chunk)
            md5.update(chunk)
    if md5.hexdigest() == archive.md5 and archive.sha256 in {None, sha256.hexdigest()}:
        return
    size = path.stat().st_size
    why = f"its SHA-256 is {sha256.hexdigest()} and its MD5 {md5.hexdigest()}"
    if size < archive.size:
        why = f"it has {size} bytes of {archive.size}, so it is cut off, or another file"
    raise DataError(f"{path} is not {archive.url}: {why}; get it again")


def tar_members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of each wanted member of a tar archive, in its order.

    Raises:
        DataError: The archive is broken, or a name in it leads out of the archive.
    """
    with _whole(path), tarfile.open(path) as tar:
        for member in tar:
            if not (member.isfile() or member.isdir()):
                raise DataError(
                    f"{path} holds {member.name}, which is a link or a device; refused"
                )
            _stays_inside(path, member.name)
            if member.isfile() and wanted(member.name):
                file = tar.extractfile(member)
                assert file is not None
                yield member.name, file.read()


@contextmanager
def zip_members(path: Path) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    """Yield the names of a zip archive's files, and a function that reads one by its name.

    Raises:
        DataError: The archive is broken, or a name in it leads out of the archive.
    """
    with _whole(path), zipfile.ZipFile(path) as packed:
        names = []
        for info in packed.infolist():
            _stays_inside(path, info.filename)
            if info.external_attr >> 28 == 0xA:
                raise DataError(f"{path} holds {info.filename}, which is a link; refused")
            if not info.is_dir():
                names.append(info.filename)
        yield names, packed.read


def _stays_inside(path: Path, member: str) -> None:
    inside = PurePosixPath(member.replace("\\", "/"))
    if inside.is_absolute() or ".." in inside.parts or ":" in member:
        raise DataError(f"{path} holds {member}, which leads out; refused")


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        raise DataError(f"{path} is broken: {error}; get it again") from error


def missing(name: str) -> DataError:
    """Return the error for a missing set, with the command that fetches it."""
    archive = ARCHIVES[name]
    return DataError(
        f"the data set {name} is not in {root()}; type: samtune data fetch {name} "
        f"({archive.size / 1e6:.0f} MB), or with the archive at hand: "
        f"samtune data fetch {name} --from-file {archive.file}"
    )
