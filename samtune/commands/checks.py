"""The checks of `samtune doctor`."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from samtune.cluster.mps import CONTROL
from samtune.cluster.nvidia import gpus_of_driver

GB = 1e9
# Below this much, sets, checkpoints or Ray's own files soon find no room.
_LITTLE_ROOM = 2 * GB
# Larger sets are looked at by their sizes only; `samtune data check` reads every byte.
_READ_WHOLE = 2 * GB


@dataclass(frozen=True)
class Check:
    """The result of a check: ok, warning, or broken where a sweep needs it."""

    name: str
    state: Literal["ok", "warning", "broken"]
    detail: str


def checks(runs: Path, with_ray: bool, address: str | None) -> Iterator[Check]:
    """Yield the result of each check as soon as it is done."""
    yield Check("python", "ok", f"{sys.version.split()[0]} at {sys.executable}")
    yield from versions()
    yield torchvision()
    yield devices()
    yield sharing()
    yield threads()
    yield from disk(runs)
    yield from data_sets()
    if with_ray:
        yield from cluster(address)


def versions() -> Iterator[Check]:
    """Check the installed versions of samtune and of what it needs."""
    from samtune import __version__

    home = Path(__file__).parent.parent
    yield Check("samtune", "ok", f"{__version__} at {home}")
    try:
        asked = importlib.metadata.requires("samtune") or []
    except importlib.metadata.PackageNotFoundError:
        yield Check("packages", "warning", "samtune is not installed; type: pip install -e .")
        return
    from packaging.requirements import Requirement

    for requirement in map(Requirement, asked):
        if requirement.marker is not None or requirement.name == "torchvision":
            continue
        name = requirement.name
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Check(name, "broken", f"not installed; type: pip install '{requirement}'")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            yield Check(name, "broken", f"{version}, but samtune needs {requirement.specifier}")
        elif name in {"torch", "ray", "optuna", "numpy", "pyarrow"}:
            yield _imported(name, version)
        else:
            yield Check(name, "ok", version)


def _imported(name: str, version: str) -> Check:
    try:
        importlib.import_module(name)
    except Exception as error:
        return Check(name, "broken", f"{version} cannot be imported: {_told(error)}")
    return Check(name, "ok", version)


def torchvision() -> Check:
    """Check that torchvision matches torch; only downloads and its own models need it."""
    name = "torchvision"
    without = "no set is downloaded and no torchvision:NAME built, all else works"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = "of unknown version"
    try:
        import torch

        vision = importlib.import_module(name)
        boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
        # A torchvision made for another torch may import, and lack its compiled operators.
        importlib.import_module("torchvision.ops").nms(boxes, torch.ones(1), 0.5)
    except Exception as error:
        return Check(name, "warning", f"{version} cannot be used: {_told(error)}; {without}")
    version = str(vision.__version__)
    builds = [text.partition("+")[2] for text in (str(torch.__version__), version)]
    if all(builds) and builds[0] != builds[1]:
        return Check(
            name, "warning", f"{version} was built for {builds[1]}, and torch for {builds[0]}"
        )
    return Check(name, "ok", f"{version}, goes with torch {torch.__version__}")


def devices() -> Check:
    """Check the GPUs that torch can use."""
    try:
        import torch
    except Exception as error:
        return Check("cuda", "broken", f"no torch to ask: {_told(error)}")
    if not torch.cuda.is_available():
        built = (
            f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
        )
        if (seen := gpus_of_driver()) is not None:
            return Check(
                "cuda",
                "warning",
                f"NVIDIA's driver {seen.version} sees {seen.gpus} GPUs, and torch can use none "
                f"({built}): install a torch for this driver, or a newer driver; until then "
                "resources.gpus must be 0",
            )
        return Check("cuda", "ok", f"no device ({built}); trials run on the CPU")
    try:
        torch.ones(1, device="cuda").sum().item()
        found = [torch.cuda.get_device_properties(k) for k in range(torch.cuda.device_count())]
    except Exception as error:
        return Check("cuda", "broken", f"there is a device, and it fails: {_told(error)}")
    shown = ", ".join(f"{about.name} {about.total_memory / GB:.0f} GB" for about in found)
    return Check("cuda", "ok", f"{len(found)}: {shown}; torch is built for {torch.version.cuda}")


def sharing() -> Check:
    """Check whether trials can share a GPU at once, by MPS."""
    if (found := shutil.which(CONTROL)) is None:
        return Check("gpu sharing", "ok", f"off: {CONTROL} is not here, so shares take turns")
    return Check("gpu sharing", "ok", f"off; resources.gpu_sharing: mps would use {found}")


def threads() -> Check:
    """Check the processors of this process, and the limit of its threads."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limit = os.environ.get("OMP_NUM_THREADS")
    said = f"OMP_NUM_THREADS={limit}" if limit else "OMP_NUM_THREADS is not set"
    return Check("threads", "ok", f"{own} of {os.cpu_count()} processors; {said}")


def disk(runs: Path) -> Iterator[Check]:
    """Check the free space for runs, data sets and temporary files."""
    from samtune.record.folder import network_filesystem
    from trainables.datasets.store import root

    kind = network_filesystem(runs)
    if kind is not None:
        yield Check(
            "runs, network",
            "warning",
            f"{runs.absolute()} is on {kind}: each report waits for the network, and one run is "
            "written from one machine at a time; --runs on a local disk with --storage is faster",
        )
    for name, folder in (("runs", runs), ("data", root()), ("temporary", tempfile.gettempdir())):
        there = next(
            path
            for path in (Path(folder).absolute(), *Path(folder).absolute().parents)
            if path.exists()
        )
        free = shutil.disk_usage(there).free
        said = f"{free / GB:,.1f} GB free at {Path(folder).absolute()}"
        if not os.access(there, os.W_OK):
            yield Check(f"disk, {name}", "broken", f"{there} cannot be written to")
        else:
            yield Check(f"disk, {name}", "ok" if free > _LITTLE_ROOM else "warning", said)


def data_sets() -> Iterator[Check]:
    """Check every data set on this machine, and name those that are not here."""
    from trainables.datasets import catalogue
    from trainables.datasets.errors import DataError

    missing = []
    try:
        found = list(catalogue.entries())
    except (DataError, OSError) as error:
        yield Check("data", "broken", str(error))
        return
    for entry in found:
        if entry.state == "missing":
            missing.append(entry.name)
            continue
        if entry.state == "ready" and entry.size <= _READ_WHOLE:
            entry, looked = catalogue.checked(entry), "verified"
        else:
            looked = "present" if entry.state == "ready" else entry.state
        if entry.state == "damaged":
            yield Check(f"data, {entry.name}", "broken", entry.note)
        else:
            yield Check(f"data, {entry.name}", "ok", f"{looked}: {entry.note}")
    if missing:
        yield Check("data, not here", "ok", f"{', '.join(missing)}; see `samtune data list`")


def cluster(address: str | None) -> Iterator[Check]:
    """Check that Ray starts, or answers at `address`, and where it listens."""
    try:
        from samtune.cluster.start import cluster as started
        from samtune.space.schema import ResourceSettings
    except Exception as error:
        yield Check("ray, start", "broken", f"Ray cannot be used: {_told(error)}")
        return
    begun = time.monotonic()
    try:
        with started([ResourceSettings()], address) as on:
            took = time.monotonic() - begun
            verb = "answers" if address else "starts"
            yield Check("ray, start", "ok", f"{verb} in {took:.1f} s, {on.slots} trials at a time")
            yield _ports() if address is None else _sharing_on_nodes()
    except Exception as error:
        yield Check("ray, start", "broken", _told(error))


def _sharing_on_nodes() -> Check:
    """Check whether trials of a cluster can share a GPU at once."""
    from samtune.cluster.sharing import without_mps

    if missing := without_mps():
        return Check("gpu sharing, nodes", "ok", f"no {CONTROL} on {', '.join(missing)}")
    return Check("gpu sharing, nodes", "ok", f"no node with GPUs lacks {CONTROL}")


def _ports() -> Check:
    """Return the ports of the processes that Ray has started under this one."""
    # Ray brings its own, which is there once Ray is imported.
    import psutil

    found: dict[str, set[int]] = {}
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            held: Any = process.net_connections(kind="inet")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        for connection in held:
            if connection.status == psutil.CONN_LISTEN:
                found.setdefault(connection.laddr.ip, set()).add(connection.laddr.port)
    ours = {ip: ports for ip, ports in found.items() if ip.startswith("127.") or ip == "::1"}
    said = "; ".join(
        f"{ip}: {', '.join(map(str, sorted(ports)))}" for ip, ports in sorted(found.items())
    )
    if len(ours) == len(found):
        return Check("ray, ports", "ok", f"{said or 'none'}; open to this machine only")
    # Ray's own doing; its token keeps strangers from using them.
    token = "token authentication is on" if os.environ.get("RAY_AUTH_MODE") == "token" else "open"
    state: Literal["ok", "warning"] = "ok" if token != "open" else "warning"
    return Check("ray, ports", state, f"{said}; {token}; in use while a sweep runs")


def _told(error: BaseException) -> str:
    first = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {first}"
