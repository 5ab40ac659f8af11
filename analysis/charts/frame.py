"""A panel: axes, marks clipped to the frame, and a name for who cannot see it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from analysis.charts.palette import Look, mark
from analysis.charts.scales import Kind, Scale, Tick
from analysis.charts.svg import element, number, path, text

WIDTH = 350.0
HEIGHT = 220.0
NARROW = 500.0
"""A panel below this width is drawn for a phone."""

# The mean width of a letter of the labels.
LETTER = 6.2
_SIDE = 4.0
_RINGS = 15
_RINGS_OF_MANY = 11


@dataclass
class Panel:
    """A chart with two axes, in user units; text is 11 units high.

    Marks are added to `under`, `marks` (clipped to the frame) and `over`, and `svg` returns all.

    Attributes:
        title: Shown above the frame.
        label: Name for screen readers: what is drawn, and how much of it.
        x: Ends of the horizontal axis.
        y: Ends of the vertical axis.
        x_kind: Scale of the horizontal axis.
        y_kind: Scale of the vertical axis.
        x_label: Shown below the axis.
        y_label: Shown above the axis.
        x_ticks: Ticks of a categorical axis; None for those of the scale.
        y_ticks: Ticks of a categorical axis; None for those of the scale.
        width: Width of the panel.
        height: Height of the panel.
        left: Room for the labels of the vertical axis.
        strip: Room on the right of the frame.
        looks: Looks of the variants that are drawn.

    """

    title: str
    label: str
    x: tuple[float, float]
    y: tuple[float, float]
    x_kind: Kind = "linear"
    y_kind: Kind = "linear"
    x_label: str = ""
    y_label: str = ""
    x_ticks: Sequence[Tick] | None = None
    y_ticks: Sequence[Tick] | None = None
    width: float = WIDTH
    height: float = HEIGHT
    left: float = 42.0
    strip: float = 0.0
    looks: Sequence[Look] = ()
    under: list[str] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)
    over: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.right = self.width - 12 - self.strip
        self.top, self.bottom = (34.0 if self.y_label else 24.0), self.height - 36
        self.to_x = Scale(*self.x, self.left, self.right, self.x_kind)
        self.to_y = Scale(*self.y, self.bottom, self.top, self.y_kind)

    def point(
        self,
        look: Look,
        x: float,
        y: float,
        kind: str = "point",
        size: float = 3.2,
        key: int | None = None,
        told: str | None = None,
    ) -> str:
        """Return a marker of a variant at values x and y, grey where it was stopped.

        Args:
            look: The variant's.
            x: Value on the horizontal axis.
            y: Value on the vertical axis.
            kind: Its class.
            size: Its radius.
            key: The number of the trial that it shows.
            told: What it says when it is pointed at, where it shows no trial.

        """
        shape = mark(look.shape, self.to_x(x), self.to_y(y), size)
        who = look.name if kind.startswith("stopped") else look
        return element("path", class_=f"{who} {kind}", d=shape, data_k=key, data_t=told)

    def line(
        self, kind: str, points: Iterable[tuple[float, float]], key: int | None = None
    ) -> str:
        """Return a line through values, of a class."""
        placed = [(self.to_x(x), self.to_y(y)) for x, y in points]
        return element("path", class_=kind, d=path(placed), data_k=key)

    def rings(self, look: Look, values: Sequence[tuple[float, str]], y: float, row: str) -> str:
        """Return a ring per value at the height of a row, each with what it says.

        Of more than 15 values 11 are drawn as one mark, from the least to the largest, and it says
        how many there are: a page must stay small.

        Args:
            look: The look of the row's variant.
            values: Value on the horizontal axis, and its words, of each ring.
            y: Value on the vertical axis.
            row: The name of the row.

        """
        count, values = len(values), sorted(values)
        if count > _RINGS:
            last = _RINGS_OF_MANY - 1
            values = [values[k * (count - 1) // last] for k in range(last + 1)]
        around = f"{number(self.to_y(y))}a3 3 0 1 0 6 0a3 3 0 1 0 -6 0"
        drawn = [f"M{number(self.to_x(x) - 3)} {around}" for x, _ in values]
        told = [f"{row}: one seed, {words}" for _, words in values]
        if count > _RINGS:
            drawn, told = ["".join(drawn)], [f"{row}: {count} seeds, {_RINGS_OF_MANY} drawn"]
        return "".join(
            element("path", class_=f"{look} hollow", d=shape, data_t=words)
            for shape, words in zip(drawn, told, strict=True)
        )

    def words(self, words: object, x: float, y: float, room: float, **attributes: object) -> str:
        """Return text at coordinates, cut to the room it has."""
        return label(words, x, y, int(room / LETTER), **attributes)

    def svg(self, **attributes: object) -> str:
        """Return the panel as an SVG element of its own, with further attributes."""
        inside = element(
            "svg",
            "".join(self.marks) or " ",
            x=self.left,
            y=self.top,
            width=self.right - self.left,
            height=self.bottom - self.top,
            viewBox=f"{number(self.left)} {number(self.top)} {number(self.right - self.left)} "
            f"{number(self.bottom - self.top)}",
            overflow="hidden",
        )
        content = [self._axes(), *self.under, inside, *self.over]
        named = {"role": "img", "aria_label": self.label, **attributes}
        return element(
            "svg",
            "".join(content),
            class_="panel",
            width=self.width,
            height=self.height,
            viewBox=f"0 0 {number(self.width)} {number(self.height)}",
            **named,
        )

    def _axes(self) -> str:
        middle = (self.left + self.right) / 2
        below: dict[str, Any] = {"class_": "soft", "text_anchor": "middle"}
        parts = [
            self.words(self.title, _SIDE, 13, 0.92 * self.width, class_="title"),
            self.words(self.y_label, _SIDE, 27, self.width, class_="soft"),
            self.words(self.x_label, middle, self.height - 5, self.width, **below),
        ]
        for value, words in self.to_y.ticks() if self.y_ticks is None else self.y_ticks:
            y = self.to_y(value)
            across = f"M{number(self.left)} {number(y)}H{number(self.right)}"
            parts.append(element("path", class_="grid", d=across))
            place = {"text_anchor": "end", "class_": "soft"}
            parts.append(self.words(words, self.left - 5, y + 4, self.left - 5, **place))
        ticks = self.to_x.ticks() if self.x_ticks is None else self.x_ticks
        room = 0.95 * (self.right - self.left) / max(1, len(ticks))
        for value, words in ticks:
            x = self.to_x(value)
            up = f"M{number(x)} {number(self.bottom)}v4"
            parts.append(element("path", class_="axis", d=up))
            parts.append(self.words(words, x, self.bottom + 16, max(room, 30), **below))
        base = f"M{number(self.left)} {number(self.bottom)}H{number(self.right)}"
        return "".join([*parts, element("path", class_="axis", d=base)])


def label(words: object, x: float, y: float, most: int, **attributes: object) -> str:
    """Return a text element, cut to `most` letters; nothing for no words."""
    return element("text", text(words, max(2, most)), x=x, y=y, **attributes) if words else ""


def apart(places: Sequence[float], least: float, top: float) -> list[float]:
    """Return places moved so that neighbours are `least` apart, none above `top`.

    Args:
        places: Vertical coordinates, in any order.
        least: The smallest distance.
        top: The least coordinate.

    """
    order = sorted(range(len(places)), key=lambda k: places[k])
    moved = [0.0] * len(places)
    reached = top - least
    for k in order:
        reached = max(places[k], reached + least)
        moved[k] = reached
    return moved
