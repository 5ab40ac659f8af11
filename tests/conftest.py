"""What tests share: folders, a trainable, and one Ray for the whole session."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in each run, on cores that may be slow.
settings.register_profile("gate", deadline=None, derandomize=True)
settings.load_profile("gate")

# The folder that has `cifar10-jpeg`; tests of the real images skip where it is absent.
REAL = Path(os.environ.get("SAMTUNE_DATA", Path(__file__).parents[2] / "shared" / "data"))

needs_real_images = pytest.mark.skipif(
    not (REAL / "cifar10-jpeg").is_dir(),
    reason=f"no cifar10-jpeg in {REAL}; SAMTUNE_DATA names another folder",
)

CIFAR10 = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
]
"""Its classes in their order."""

# They need the fake GPU; `tests/fakegpu/test_fakegpu.py` runs them in a process of their own.
collect_ignore = [] if "SAMTUNE_FAKE_GPU" in os.environ else ["fakegpu/inside"]

# Two trials at a time on two cores: more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take long, so that no process waits for the other's last one."""
    long = {item.path for item in items if any(map(item.get_closest_marker, ("slow", "fakegpu")))}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="module")
def two_slots() -> Iterator[object]:
    """Start a Ray of our own with room for two trials; end it with the module that uses it.

    Tests of other modules start one by a command, and a process can hold only one.
    """
    from samtune.cluster.start import cluster
    from samtune.space.search_space import SearchSpace

    space = SearchSpace.load("sgd", ["resources.parallel=2"])
    with cluster([space.resources]) as on:
        yield on


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data root, and no split of the test before."""
    from trainables import data

    folder = tmp_path / "root"
    monkeypatch.setenv("SAMTUNE_DATA_ROOT", str(folder))
    data._train_val.cache_clear()
    data._test.cache_clear()
    return folder


@pytest.fixture
def cifar_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive of few images, which counts as CIFAR-10's official one."""
    from tiny_sets import cifar10_files, official, tar_of

    raw = tar_of(cifar10_files())
    official(monkeypatch, "cifar10", raw)
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(raw)
    return path


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory where there is one, for tests that fsync ten thousand times."""
    folder = tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    yield Path(folder)
    shutil.rmtree(folder)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def lab_of(here: Path) -> Iterator[Callable[[str], str]]:
    """Writes code as a module in the current folder and returns its name; gone after the test."""
    name, path = f"lab_of_{here.name}", list(sys.path)

    def write(code: str) -> str:
        (here / f"{name}.py").write_text(code)
        importlib.invalidate_caches()
        return name

    yield write
    sys.path[:] = path
    sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def toy_trainable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Lets `labtrainables.mod` be imported, whose trainable is called toy."""
    from toy_space import STUB

    folder = tmp_path_factory.mktemp("path")
    package = folder / "labtrainables"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "mod.py").write_text(STUB)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.startswith("labtrainables")]:
        del sys.modules[name]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread for torch, which a trial may change."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is fsynced from now on, and `rename` for each rename between them."""
    order: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def logged_fsync(descriptor: int) -> None:
        order.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def logged_rename(self: Path, target: Path) -> Path:
        order.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(Path, "rename", logged_rename)
    return order
