"""The words under `task:` that say which images and labels a trial gets."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass

from samtune.optimizers.knobs import Knob, KnobError
from samtune.trial import Value
from trainables.datasets import NAMES, DataError, full_name
from trainables.datasets.cifar import CORRUPTIONS


class _DatasetKnob(Knob):
    """A data set's name, or a form with a path, which is made absolute."""

    def check(self, value: object) -> str:
        try:
            return full_name(value)
        except DataError as error:
            raise KnobError(f"{self.name}: {error}") from error


class _ClassesKnob(Knob):
    """Two or more class names or numbers with commas between them, or ""."""

    def check(self, value: object) -> str:
        words = split_words(value) if isinstance(value, str) else []
        if value != "" and (len(words) < 2 or "" in words or len(set(words)) < len(words)):
            raise KnobError(
                f'{self.name} is {value!r}; it must be two or more classes, "0,3,5" or "cat,dog", '
                'or "" for all'
            )
        return ",".join(words)


class _SizeKnob(Knob):
    """A number of images, as in scikit-learn: a float is a share and a whole number a count."""

    def check(self, value: object) -> float | int:
        is_bool = isinstance(value, bool)
        if isinstance(value, numbers.Integral):
            if not is_bool and int(value) >= 0:
                return int(value)
        elif isinstance(value, numbers.Real) and 0 <= float(value) <= (self.high or 1.0):
            return float(value)
        hint = ""
        if isinstance(value, float) and math.isfinite(value) and value > 1:
            hint = f"; for a count write {round(value)}"
        raise KnobError(
            f"{self.name} is {value!r}; it must be a share, a decimal number from 0.0 to "
            f"{self.high}, or a count of images, a whole number such as 2000{hint}"
        )


TASK: tuple[Knob, ...] = (
    _DatasetKnob(
        name="dataset",
        kind=str,
        default="digits",
        choices=NAMES,
        doc="a known data set, folder:/path, or parquet:/path with #column for other labels; "
        "`samtune data list` shows them",
        source="trainables/datasets",
    ),
    Knob(
        name="label_noise",
        kind=float,
        default=0.0,
        low=0.0,
        high=1.0,
        safe=(0.0, 0.8),
        doc="share of the training labels that noise changes; validation and test stay clean",
        source="Foret et al. 2021, section 3.3, tries 0.2 to 0.8",
    ),
    Knob(
        name="label_noise_kind",
        kind=str,
        default="symmetric",
        choices=("symmetric", "asymmetric"),
        doc="symmetric: redrawn uniformly over all classes; asymmetric: replaced by the class "
        "that is most like it",
        source="Patrini et al. 2017, section 5",
    ),
    _SizeKnob(
        name="train_size",
        kind=float,
        default=1.0,
        low=0.0,
        high=1.0,
        doc="training images to use, of each class alike: 0.1 is a share, 2000 a count",
        source="a tenth of CIFAR-10 still has 450 images per class",
    ),
    _SizeKnob(
        name="val_size",
        kind=float,
        default=0.0,
        low=0.0,
        high=0.9,
        doc="official training images to validate on: 0.1 is a share, 5000 a count; 0 takes the "
        "official validation images if there are any, else a tenth (digits: 297 of 1,297)",
        source="5,000 of CIFAR-10's 50,000 tell accuracies apart by 0.4 points",
    ),
    _ClassesKnob(
        name="classes",
        kind=str,
        default="",
        doc="the classes to keep, by number or name: [0, 3, 5], [cat, dog]; none keeps all",
        lists=True,
        source="trainables/data.py",
    ),
    Knob(
        name="image_size",
        kind=int,
        default=0,
        low=0,
        high=1024,
        safe=(0, 512),
        doc="for folder, parquet and imagenet: resize the shorter side to this and cut out the "
        "middle; 0 keeps the images' size",
        source="ImageNet is commonly trained at 224",
    ),
    Knob(
        name="corruption",
        kind=str,
        default="none",
        choices=("none", *CORRUPTIONS),
        doc="corruption of the test images of cifar10 and cifar100, as in CIFAR-10-C",
        source="Hendrycks and Dietterich 2019",
    ),
    Knob(
        name="severity",
        kind=int,
        default=1,
        low=1,
        high=5,
        doc="severity of the corruption; without a corruption it has no effect",
        source="Hendrycks and Dietterich 2019",
    ),
)


@dataclass(frozen=True)
class Size:
    """A number of images: a share of those that there are, or a count."""

    value: float
    is_count: bool

    @classmethod
    def of(cls, value: object) -> Size:
        """Return the size for a checked value of a size knob."""
        assert isinstance(value, int | float)
        return cls(value, isinstance(value, int))

    def __str__(self) -> str:
        return f"{self.value:g}" if not self.is_count else str(self.value)

    def __bool__(self) -> bool:
        return self.value > 0

    def count(self, total: int) -> int:
        """Return the number of images out of `total`; a count may be more than there are."""
        return int(self.value) if self.is_count else round(self.value * total)


@dataclass(frozen=True)
class DataTask:
    """The checked words of a task that say which images and labels a trial gets."""

    dataset: str
    label_noise: float
    label_noise_kind: str
    train_size: Size
    val_size: Size
    classes: str
    image_size: int
    corruption: str
    severity: int

    @classmethod
    def of(cls, task: Mapping[str, Value]) -> DataTask:
        """Check the words of TASK and ignore others; words left out have their defaults.

        Raises:
            DataError: A word has a value that it cannot have.
        """
        try:
            values = {knob.name: knob.check(task.get(knob.name, knob.default)) for knob in TASK}
        except KnobError as error:
            raise DataError(str(error)) from error
        sizes = {name: Size.of(values[name]) for name in ("train_size", "val_size")}
        # The knobs have checked the types.
        return cls(**{**values, **sizes})  # type: ignore[arg-type]


def split_words(text: str) -> list[str]:
    """Return the words between the commas of a text."""
    return [word.strip() for word in text.split(",")]
