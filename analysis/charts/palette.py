"""A fixed colour and shape for each variant, and the colours of the two themes.

The hues keep an OKLab distance of at least 0.09 from each other and from the grey of stopped
trials, also for colour-blind readers, and a contrast of at least 3 against the background.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from analysis.charts.svg import number

Theme = Literal["light", "dark"]
THEMES: tuple[Theme, ...] = ("light", "dark")

# Ink, blue, vermilion, green, pink, ochre, violet, teal.
HUES: dict[Theme, tuple[str, ...]] = {
    "light": (
        *("#1a353d", "#3111ff", "#a51f02", "#00876b"),
        *("#e054e4", "#ab8b12", "#7232a7", "#29575e"),
    ),
    "dark": (
        *("#ffe4ff", "#349fc7", "#dc4434", "#a0ff89"),
        *("#c5baff", "#f5a811", "#af47ff", "#31d99e"),
    ),
}
INK: dict[Theme, dict[str, str]] = {
    "light": {"page": "#ffffff", "ink": "#1b1f24", "soft": "#5b6570", "grid": "#e3e7ec"}
    | {"stopped": "#8792a2"},
    "dark": {"page": "#12151a", "ink": "#e6eaf0", "soft": "#a3adbb", "grid": "#252b34"}
    | {"stopped": "#6c7685"},
}
SHAPES = ("circle", "square", "triangle", "diamond", "wedge", "cross")


@dataclass(frozen=True)
class Look:
    """The hue, an index into `HUES`, and the shape, an index into `SHAPES`, of a variant."""

    hue: int
    shape: int

    def __str__(self) -> str:
        """Return the classes of its marks: of the hue, and of the variant alone."""
        return f"h{self.hue} {self.name}"

    @property
    def name(self) -> str:
        """The class of this variant's marks alone."""
        return f"v{self.hue}{self.shape}"


SHIPPED = {
    "sgd": Look(0, 0),
    "adamw": Look(0, 1),
    "sam": Look(1, 0),
    "fisher_sam": Look(1, 1),
    "sparse_sam": Look(1, 3),
    "asam": Look(2, 1),
    "bayesian_sam": Look(2, 2),
    "cr_sam": Look(2, 4),
    "gsam": Look(3, 2),
    "momentum_sam": Look(3, 4),
    "gam": Look(3, 5),
    "friendly_sam": Look(4, 3),
    "vasso": Look(4, 5),
    "k_sam": Look(4, 0),
    "esam": Look(5, 4),
    "stable_sam": Look(5, 0),
    "look_sam": Look(6, 5),
    "look_layer_sam": Look(6, 3),
    "unified_sam": Look(6, 1),
    "wsam": Look(7, 0),
    "ae_sam": Look(7, 2),
    "lookbehind_sam": Look(7, 1),
}
"""The looks of the shipped variants; they never change."""


def looks(variants: Iterable[str]) -> dict[str, Look]:
    """Return a look per variant: the shipped one, else by the SHA-256 of its name.

    Two variants of one chart share a look only if there are more than 48 of them.
    """
    names = list(dict.fromkeys(variants))
    found = {name: SHIPPED[name] for name in names if name in SHIPPED}
    free = len(HUES["light"]) * len(SHAPES)
    for name in sorted(set(names) - set(SHIPPED)):
        digest = hashlib.sha256(name.encode("utf-8", "replace")).digest()
        slot = int.from_bytes(digest, "big") % free
        for shift in range(free):
            look = Look(*reversed(divmod((slot + shift) % free, len(HUES["light"]))))
            if look not in found.values():
                break
        found[name] = look
    return {name: found[name] for name in names}


def mark(shape: int, x: float, y: float, radius: float = 3.2) -> str:
    """Return the path data of a marker centred at a point; all shapes have about equal areas."""
    n = number
    match SHAPES[shape]:
        case "circle":
            r = n(radius)
            return (
                f"M{n(x - radius)} {n(y)}a{r} {r} 0 1 0 {n(2 * radius)} 0"
                f"a{r} {r} 0 1 0 {n(-2 * radius)} 0z"
            )
        case "square":
            s = 0.9 * radius
            return f"M{n(x - s)} {n(y - s)}h{n(2 * s)}v{n(2 * s)}h{n(-2 * s)}z"
        case "triangle":
            s = 1.25 * radius
            return f"M{n(x)} {n(y - s)}L{n(x + s)} {n(y + 0.8 * s)}H{n(x - s)}z"
        case "diamond":
            s = 1.3 * radius
            return f"M{n(x)} {n(y - s)}L{n(x + s)} {n(y)}L{n(x)} {n(y + s)}L{n(x - s)} {n(y)}z"
        case "wedge":
            s = 1.25 * radius
            return f"M{n(x)} {n(y + s)}L{n(x + s)} {n(y - 0.8 * s)}H{n(x - s)}z"
    a, b = 0.45 * radius, 1.3 * radius
    arm = f"h{n(2 * a)}v{n(b - a)}h{n(b - a)}v{n(2 * a)}h{n(a - b)}v{n(b - a)}"
    return f"M{n(x - a)} {n(y - b)}{arm}h{n(-2 * a)}v{n(a - b)}h{n(a - b)}v{n(-2 * a)}h{n(b - a)}z"
