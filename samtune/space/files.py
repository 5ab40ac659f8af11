"""Functions that find and read space files, and merge them with the files that they extend."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from samtune.messages import nearest, quoted
from samtune.space import strict_yaml
from samtune.space.errors import SpaceError, space_error
from samtune.space.schema import SECTIONS, shape_of
from samtune.space.strict_yaml import MAX_BYTES, Mark, Node, Problem, StrictYamlError

SHARED = "common"
# What spaces extend, and no spaces themselves.
PARTS = (SHARED, "thrifty")
# The words that compared variants share; the rest of a space belongs to its variant.
_SETTING = {"task", *SECTIONS} - {"member"}
# A shipped space may be named as if it lay in one of these folders.
_SHIPPED_FOLDERS = {".", "spaces", "search_spaces"}
MAX_FILES = 32


def shipped_folder() -> Path:
    """Return the folder search_spaces/, which is beside the package in checkouts and wheels."""
    import samtune

    return Path(samtune.__file__).resolve().parent.parent / "search_spaces"


def shipped() -> dict[str, Path]:
    """Return the spaces that come with samtune, by name, without the parts that they share."""
    files = sorted(shipped_folder().glob("*.yaml"))
    return {path.stem: path for path in files if path.stem not in PARTS}


def shipped_studies() -> dict[str, Path]:
    """Return the studies that come with samtune, by name."""
    return {path.stem: path for path in sorted((shipped_folder() / "studies").glob("*.yaml"))}


def reference_spaces() -> dict[str, Path]:
    """Return the example settings of torch-unified-SAM-optimization, by `reference/NAME`."""
    files = sorted((shipped_folder() / "reference").glob("*.yaml"))
    return {f"reference/{path.stem}": path for path in files if path.stem != "setting"}


@dataclass(frozen=True)
class Found:
    """The file behind a reference; `from_shipped` if the reference is no path of a file."""

    name: str
    path: Path
    from_shipped: bool


def find(reference: str | Path) -> Found:
    """Return the file of a reference, or the shipped space that it names.

    Raises:
        SpaceError: There is neither, or the file name cannot be the name of a space.
    """
    text = str(reference)
    path = Path(text)
    if os.path.isfile(text):
        name = path.stem
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name):
            message = (
                f"{_printable(text)}: a space is named after its file, in a-z, 0-9, '.', '_' "
                "and '-', at most 64 of them, a letter or digit first; rename the file"
            )
            raise SpaceError([message])
        return Found(name, path, from_shipped=False)
    if (known := reference_spaces().get(text.removesuffix(".yaml"))) is not None:
        return Found(known.stem, known, from_shipped=True)
    spaces = shipped()
    folder = os.path.isdir(text)
    what = "is a folder, not a file" if folder else "no such file"
    if path.suffix in {"", ".yaml", ".yml"} and path.stem in spaces:
        if str(path.parent) in _SHIPPED_FOLDERS:
            return Found(path.stem, spaces[path.stem], from_shipped=True)
        message = f"{_printable(text)}: {what}; `{path.stem}` alone names the shipped space"
        raise SpaceError([message])
    # Elsewhere they are called FisherSAM or look-sam.
    plain = {name.replace("_", ""): name for name in spaces}
    near = difflib.get_close_matches(re.sub("[_-]", "", path.stem.lower()), plain, 1)
    meant = near and not folder
    which = f"did you mean {plain[near[0]]!r}?" if meant else f"there are {', '.join(spaces)};"
    raise SpaceError(
        [
            f"{_printable(text)}: {what}, and no shipped space has that name; {which} "
            "`samtune spaces list` shows them"
        ]
    )


def parse(data: bytes, source: str) -> Node:
    """Return the tree of one space file.

    Raises:
        StrictYamlError: It is not strict YAML, or no map that says `samtune: 1`.
    """
    root = strict_yaml.load(data, source)
    if root.value is None:
        raise StrictYamlError([(root.mark, "the file is empty; begin it with `samtune: 1`")])
    if not isinstance(root.value, dict):
        kind = "a list" if isinstance(root.value, list) else "text"
        message = f"{kind} where a map belongs; begin the file with `samtune: 1`"
        raise StrictYamlError([(root.mark, message)])
    if "samtune" not in root.value:
        near = difflib.get_close_matches("samtune", root.value, 1)
        instead = f", not `{near[0]}`" if near else ""
        message = f"begin the file with `samtune: 1`{instead} (the version of the format)"
        raise StrictYamlError([(root.mark, message)])
    version = root.value["samtune"]
    if version.value != 1 or isinstance(version.value, bool):
        message = f"this is format {quoted(version.plain())}, and this samtune reads format 1"
        raise StrictYamlError([(version.mark, message)])
    return root


def read(path: Path) -> Node:
    """Return the tree of a file, merged with all files that it extends.

    Raises:
        SpaceError: One of the files is wrong; every mistake is named.
    """
    reader = _Reader(path.parent.resolve())
    root = reader.file(path, ())
    if root is None or reader.problems:
        raise space_error(reader.problems)
    return root


def compose(text: str, name: str) -> Node:
    """Return the tree of a space made in Python, merged with all files that it extends.

    Paths in `extends` are relative to the current folder.

    Raises:
        SpaceError: The text, or a file that it extends, is wrong.
    """
    reader = _Reader(Path.cwd())
    try:
        root = reader.extended(parse(text.encode(), name), Path.cwd() / name, ())
    except StrictYamlError as error:
        raise space_error(error.problems) from None
    if reader.problems:
        raise space_error(reader.problems)
    return root


class _Reader:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[Problem] = []
        self.files = 0

    def file(self, path: Path, chain: tuple[Path, ...]) -> Node | None:
        self.files += 1
        source = _shown(path)
        try:
            with path.open("rb") as stream:
                root = parse(stream.read(MAX_BYTES + 1), source)
        except OSError as error:
            self.problems.append((Mark(source), f"cannot be read: {error.strerror}"))
            return None
        except StrictYamlError as error:
            self.problems += error.problems
            return None
        return self.extended(root, path, chain)

    def extended(self, root: Node, path: Path, chain: tuple[Path, ...]) -> Node:
        """Return the tree merged with the files that it extends; `path` is its own file."""
        entries = dict(_entries(root))
        extends = entries.pop("extends", None)
        merged = Node(entries, root.mark, root.key)
        if extends is None:
            return merged
        below: Node | None = None
        for item in extends.value if isinstance(extends.value, list) else [extends]:
            parent = self.parent(item, path, (*chain, path))
            if parent is not None:
                below = parent if below is None else merge(below, parent)
        return merged if below is None else merge(below, merged)

    def parent(self, item: Node, path: Path, chain: tuple[Path, ...]) -> Node | None:
        target = self.target(item, path)
        if isinstance(target, str):
            self.problems.append((item.mark, f"extends: {target}"))
            return None
        known = [file.resolve() for file in chain]
        if target.resolve() in known:
            circle = [*chain[known.index(target.resolve()) :], target]
            names = " -> ".join(file.name for file in circle)
            self.problems.append((item.mark, f"extends goes round in a circle: {names}"))
            return None
        if self.files >= MAX_FILES:
            message = f"extends: more than {MAX_FILES} files are read for one space"
            self.problems.append((item.mark, message))
            return None
        return self.file(target, chain)

    def target(self, item: Node, path: Path) -> Path | str:
        """Return the file that an entry of `extends` names, or why there is none."""
        name = item.value
        if not isinstance(name, str):
            return "the name of a file belongs here, such as common.yaml"
        if "://" in name:
            return (
                f"{quoted(name)} is a URL; only files beside this one, or shipped ones, are read"
            )
        if os.path.isabs(name) or re.match(r"[A-Za-z]:|~|\\", name):
            return f"{quoted(name)} is an absolute path; write it relative to this file"
        beside = path.parent / name
        root = path.parent.resolve() if path.parent.resolve() == shipped_folder() else self.folder
        if not beside.resolve().is_relative_to(root):
            return f"{quoted(name)} leads out of the folder {root.name}/; copy that file into it"
        if os.path.isfile(beside):
            return beside
        stem = Path(name).stem if name.endswith((".yaml", ".yml")) else name
        spaces = {**shipped(), **{part: shipped_folder() / f"{part}.yaml" for part in PARTS}}
        if "/" not in name and stem in spaces:
            return spaces[stem]
        return f"no file {quoted(name)} beside this one; {nearest(stem, spaces, 'shipped')}"


def merge(below: Node, above: Node, path: tuple[str, ...] = ()) -> Node:
    """Return `above` on top of `below`; maps are merged, and null removes a part of a knob.

    The metrics of a search are taken as a whole, since their order has a meaning, and replace the
    one metric of a search, as that one replaces them.
    """
    merged = dict(_entries(below))
    if path == ("search",):
        said = _entries(above).keys()
        gone = {"metric", "mode", "metrics"} if "metrics" in said else set()
        gone |= {"metrics"} if said & {"metric", "mode"} else set()
        merged = {word: node for word, node in merged.items() if word not in gone}
    for word, node in _entries(above).items():
        known = merged.get(word)
        removes = path[:1] == ("knobs",) or (not path and word == "points")
        if known is None:
            merged[word] = node
        elif node.value is None and removes:
            del merged[word]
        elif isinstance(node.value, dict) and isinstance(known.value, dict):
            replaces = path == ("knobs",) and _changes_shape(known, node)
            merged[word] = node if replaces else merge(known, node, (*path, word))
        else:
            merged[word] = node
    return Node(merged, above.mark, above.key)


def on_setting(root: Node, setting: Node) -> Node:
    """Return a space with the task and the sections (budget, search, ...) of another."""
    kept = {word: node for word, node in _entries(setting).items() if word in _SETTING}
    return merge(root, Node(kept, root.mark, root.key))


def without_shipped_noise(root: Node) -> Node:
    """Remove the label noise that common.yaml gives its digits if the task names other data."""
    shared = _shown(shipped_folder() / f"{SHARED}.yaml")
    task = _entries(_entries(root).get("task", root))
    noise, dataset = task.get("label_noise"), task.get("dataset")
    if noise is None or dataset is None or dataset.value == "digits":
        return root
    if noise.mark.source != shared:
        return root
    return replaced(root, ["task", "label_noise"], noise, remove=True)


def replaced(node: Node, words: Sequence[str], value: Node, remove: bool = False) -> Node:
    """Return the tree with `value` at a path, or without what is there."""
    if not words:
        return value
    entries, word, rest = dict(_entries(node)), words[0], words[1:]
    if remove and not rest:
        entries.pop(word, None)
    else:
        below = entries.get(word, Node({}, value.mark, value.mark))
        entries[word] = replaced(below, rest, value, remove)
    return Node(entries, node.mark, node.key)


def _changes_shape(below: Node, above: Node) -> bool:
    # {default: 0} alone has no shape, and is added to the shape below.
    says = {"choice", "grid", "min", "max"} & set(_entries(above))
    return bool(says) and shape_of(below.plain()) != shape_of(above.plain())


def _entries(node: Node) -> dict[str, Node]:
    return node.value if isinstance(node.value, dict) else {}


def _shown(path: Path) -> str:
    try:
        return _printable(str(path.relative_to(Path.cwd())))
    except (ValueError, OSError):
        return _printable(str(path))


def _printable(text: str) -> str:
    return text if text.isprintable() and len(text) <= 300 else quoted(text)
