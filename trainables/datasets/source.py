"""What every data set is to the rest: parts of images with labels, class names and a hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from samtune.errors import SamtuneError

if TYPE_CHECKING:
    from trainables.datasets.decode import Encoded


class DataError(SamtuneError):
    """A data set is missing, damaged or misnamed, or the test split was asked for in vain."""

    exit_code = 5


class WordError(DataError):
    """A word asks for what no data set has, whatever lies on the disk: a wrong name or option."""

    exit_code = 2


@dataclass(frozen=True)
class Part:
    """`images` uint8 (N, C, H, W), mapped or still encoded; `labels` int64 (N,)."""

    images: NDArray[np.uint8] | Encoded
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Source:
    """A whole data set.

    `parts` has `train`, and for most sets the official `test` and perhaps `val`. Without `test`,
    each split seed deals `train` in three, by `sizes`. `mean` and `std` are those of the pixels of
    `train`, one a channel; None where they are to be those of what is dealt for training.
    `sha256` stands for every image and label.
    """

    name: str
    parts: Mapping[str, Part]
    class_names: tuple[str, ...]
    sha256: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    sizes: Mapping[str, int] | None = None
