"""A panel: axes, marks clipped to the frame, and a name for who cannot see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from analysis.charts.palette import Look, mark
from analysis.charts.scales import Kind, Scale, Tick
from analysis.charts.svg import element, number, text

WIDTH = 350.0
HEIGHT = 220.0


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
    under: list[str] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)
    over: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.right, self.top, self.bottom = self.width - 10, 34.0, self.height - 36
        self.to_x = Scale(*self.x, self.left, self.right, self.x_kind)
        self.to_y = Scale(*self.y, self.bottom, self.top, self.y_kind)

    def point(self, look: Look, x: float, y: float, kind: str = "point", size: float = 3.2) -> str:
        """Return a marker of a variant at values x and y; `kind` is its class."""
        shape = mark(look.shape, self.to_x(x), self.to_y(y), size)
        return element("path", class_=f"h{look.hue} {kind}", d=shape)

    def svg(self) -> str:
        """Return the panel as an SVG element of its own."""
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
        return element(
            "svg",
            "".join(content),
            class_="panel",
            width=self.width,
            height=self.height,
            viewBox=f"0 0 {number(self.width)} {number(self.height)}",
            role="img",
            aria_label=self.label,
        )

    def _axes(self) -> str:
        middle = (self.left + self.right) / 2
        parts = [
            _label(self.title, self.left, 13, class_="title"),
            _label(self.y_label, self.left, 27, class_="soft"),
            _label(self.x_label, middle, self.height - 5, class_="soft", text_anchor="middle"),
        ]
        for value, words in self.to_y.ticks() if self.y_ticks is None else self.y_ticks:
            y = self.to_y(value)
            across = f"M{number(self.left)} {number(y)}H{number(self.right)}"
            parts.append(element("path", class_="grid", d=across))
            parts.append(_label(words, self.left - 5, y + 4, text_anchor="end", class_="soft"))
        for value, words in self.to_x.ticks() if self.x_ticks is None else self.x_ticks:
            x = self.to_x(value)
            up = f"M{number(x)} {number(self.bottom)}v4"
            parts.append(element("path", class_="axis", d=up))
            place = {"x": x, "y": self.bottom + 16, "text_anchor": "middle"}
            parts.append(element("text", text(words, 16), class_="soft", **place))
        base = f"M{number(self.left)} {number(self.bottom)}H{number(self.right)}"
        return "".join([*parts, element("path", class_="axis", d=base)])


def _label(words: str, x: float, y: float, **attributes: object) -> str:
    return element("text", text(words, 60), x=x, y=y, **attributes) if words else ""
