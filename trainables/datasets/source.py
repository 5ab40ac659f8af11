"""A data set as the trials see it: splits of images with labels, class names and a hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainables.datasets.decode import Encoded


@dataclass(frozen=True)
class Part:
    """The images and labels of one split.

    Attributes:
        images: uint8 of shape (N, C, H, W), memory-mapped; or still encoded.
        labels: int64 of shape (N,).
    """

    images: NDArray[np.uint8] | Encoded
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Source:
    """A whole data set.

    Attributes:
        name: The name that a space gives it.
        parts: `train`, for most sets the official `test`, and perhaps `val`. Without `test`, each
            split seed deals `train` in three, by `sizes`.
        class_names: The name of each label.
        sha256: A hash of all images and labels.
        mean: The mean of the pixels of `train` per channel; None to compute it from the images
            that are dealt for training.
        std: The standard deviation per channel, as `mean`.
        sizes: The number of images per split, for a set without official test images.
    """

    name: str
    parts: Mapping[str, Part]
    class_names: tuple[str, ...]
    sha256: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    sizes: Mapping[str, int] | None = None
