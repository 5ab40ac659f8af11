"""Names of splits: which folders and files hold training, validation or test images."""

from __future__ import annotations

import re
from collections.abc import Iterable

from trainables.datasets.errors import DataError

_SPLITS = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "development"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "holdout", "heldout"), "test"),
}
# Words beside a split's word that say nothing else: `training_set`, `val_images`.
_NEUTRAL = {
    *("set", "sets", "subset", "split", "data", "dataset", "dir", "folder", "part", "partition"),
    *("image", "images", "img", "imgs", "pic", "pics", "picture", "pictures", "photo", "photos"),
    *("jpg", "jpeg", "png", "file", "files", "fold", "sample", "samples", "parquet"),
}
_GLUED = re.compile(f"({'|'.join(_SPLITS)})({'|'.join(_NEUTRAL)})")
_HELD_OUT = re.compile(r"(hold|held)[\W_]+out")


def split_of(name: str) -> str:
    """Return `train`, `val` or `test` if a word of the name says it, as in `mnist_test-00`.

    Otherwise return "".
    """
    return next((_SPLITS[word] for word in _words(name) if word in _SPLITS), "")


def is_split(name: str) -> bool:
    """Return True if the name means a split and nothing else, as `train`, `val2017`, `TestSet`."""
    return bool(split_of(name)) and not _others(name)


def splits_of(folders: Iterable[str]) -> dict[str, str]:
    """Return the split of each folder that is one, out of folders that lie side by side.

    A name such as `mnist_train` has a word of its own. It means a split only if a folder of
    another split has the same word, as `mnist_test`: so `bullet_train` stays a class.

    Raises:
        DataError: Two folders with different names claim the same split.
    """
    names = sorted(folders)
    means = {name: split_of(name) for name in names}
    found = {
        name: means[name]
        for name in names
        if means[name] and (is_split(name) or any(_are_siblings(name, other) for other in names))
    }
    first: dict[str, str] = {}
    for name, split in found.items():
        other = first.setdefault(split, name)
        if _words(other) != _words(name):
            raise DataError(
                f"the folders {other} and {name} both look like the {split} split; merge them, "
                f"move one out, or if they are classes, give them names without a split's word"
            )
    return found


def _are_siblings(name: str, other: str) -> bool:
    split, its_split = split_of(name), split_of(other)
    return bool(its_split) and split != its_split and _others(name) == _others(other)


def _others(name: str) -> list[str]:
    return [word for word in _words(name) if word not in _SPLITS and word not in _NEUTRAL]


def _words(name: str) -> list[str]:
    """Return the lower-case words; `TrainSet`, `train_set-2` and `trainset` all have two."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    joined = _HELD_OUT.sub(r"\1out", spaced.lower())
    words: list[str] = []
    for word in filter(None, re.split(r"[\W\d_]+", joined)):
        glued = _GLUED.fullmatch(word)
        words += glued.groups() if glued else [word]
    return words
