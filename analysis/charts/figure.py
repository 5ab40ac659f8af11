"""A figure: panels in a grid, with its own colours, ready for a file, a page or a notebook."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.charts.frame import Panel
from analysis.charts.palette import HUES, INK, Theme
from analysis.charts.svg import element, number, text

_GAP = 14.0
_FORMATS = (".svg", ".png", ".pdf")


@dataclass(frozen=True)
class Figure:
    """Panels side by side.

    Attributes:
        panels: The panels, all of one size.
        caption: What the marks mean, in a sentence.
        width: Width in pixels; panels go into as many columns as fit.
        theme: Colours for a light or a dark background.

    """

    panels: Sequence[Panel]
    caption: str
    width: float = 1080.0
    theme: Theme = "light"

    def svg(self) -> str:
        """Return the figure as one SVG document, with its style inside."""
        each, high = self.panels[0].width, self.panels[0].height
        columns = max(1, min(len(self.panels), int((self.width + _GAP) // (each + _GAP))))
        rows = math.ceil(len(self.panels) / columns)
        width = max(columns * (each + _GAP) + _GAP, each + 2 * _GAP)
        height = rows * (high + _GAP) + _GAP + 22
        content = [
            element("style", style(self.theme)),
            element("rect", class_="page", width="100%", height="100%"),
        ]
        for place, panel in enumerate(self.panels):
            row, column = divmod(place, columns)
            x, y = _GAP + column * (each + _GAP), _GAP + row * (high + _GAP)
            moved = f"translate({number(x)} {number(y)})"
            content.append(element("g", panel.svg(), transform=moved))
        caption = text(self.caption, 200)
        content.append(element("text", caption, class_="soft", x=_GAP, y=height - 10))
        box = f"0 0 {number(width)} {number(height)}"
        return element(
            "svg",
            "".join(content),
            xmlns="http://www.w3.org/2000/svg",
            viewBox=box,
            width=width,
            height=height,
        )

    def save(self, path: Path) -> None:
        """Write the figure; the suffix says the format: svg, png or pdf.

        Raises:
            ValueError: The suffix is another one.
            ImportError: PNG and PDF need the package `vl-convert-python`.

        """
        if path.suffix not in _FORMATS:
            raise ValueError(f"{path}: a figure is written as {', '.join(_FORMATS)}")
        if path.suffix == ".svg":
            path.write_text(self.svg(), encoding="utf-8")
            return
        import vl_convert

        convert = vl_convert.svg_to_png if path.suffix == ".png" else vl_convert.svg_to_pdf
        path.write_bytes(convert(self.svg()))

    def _repr_svg_(self) -> str:
        return self.svg()


def style(theme: Theme) -> str:
    """Return the style sheet of the marks in a theme."""
    ink = INK[theme]
    rules = [
        f"text{{font:11px system-ui,sans-serif;fill:{ink['ink']}}}",
        f".soft{{fill:{ink['soft']}}}.title{{font-weight:600}}.page{{fill:{ink['page']}}}",
        f".grid{{stroke:{ink['grid']};fill:none}}.axis{{stroke:{ink['soft']};fill:none}}",
        f".rung{{stroke:{ink['soft']};fill:none;stroke-dasharray:2 3}}",
        ".line{fill:none;stroke-width:1.4}.winner{stroke-width:3}.thin{stroke-width:.8}",
        ".hollow{fill:none;stroke-width:1.2}",
    ]
    for hue, colour in enumerate(HUES[theme]):
        rules.append(f".h{hue}.point{{fill:{colour}}}")
        rules.append(f".h{hue}.line,.h{hue}.hollow{{stroke:{colour}}}")
    rules.append(f".stopped.line,.stopped.hollow{{stroke:{ink['stopped']}}}")
    return "".join(rules)
