"""A figure: panels in a grid, with its own colours, ready for a file, a page or a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from analysis.charts.frame import LETTER, Panel
from analysis.charts.palette import HUES, INK, Look, Theme, mark
from analysis.charts.svg import element, number, text

_GAP = 7.0
_LINE = 18.0
_FORMATS = (".svg", ".png", ".pdf")


@dataclass(frozen=True)
class Figure:
    """Panels side by side, with a key of the variants.

    Attributes:
        groups: The panels of each question, under its heading.
        caption: What the marks mean, in sentences.
        looks: The look of each variant.
        width: Width in pixels; panels go into as many columns as fit.
        theme: Colours for a light or a dark background.

    """

    groups: Sequence[tuple[str, Sequence[Panel]]]
    caption: str
    looks: Mapping[str, Look] = field(default_factory=dict)
    width: float = 1080.0
    theme: Theme = "light"

    @property
    def panels(self) -> list[Panel]:
        """All panels."""
        return [panel for _, panels in self.groups for panel in panels]

    def svg(self) -> str:
        """Return the figure as one SVG document, with its style inside."""
        width = max(self.width, max(panel.width for panel in self.panels) + 2 * _GAP)
        content, y = [], _GAP
        for heading, panels in self.groups:
            for line in _lines(heading, width):
                y += _LINE
                content.append(element("text", text(line, 300), class_="title", x=_GAP, y=y - 6))
            placed, y = _grid(panels, width, y)
            content += placed
        y = self._add_key(content, width, y)
        for line in _lines(self.caption, width):
            y += _LINE
            content.append(element("text", text(line, 300), class_="soft", x=_GAP, y=y - 6))
        height = y + _GAP - 6
        page = element("rect", class_="page", width="100%", height="100%")
        return element(
            "svg",
            "".join([element("style", _style(self.theme)), page, *content]),
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {number(width)} {number(height)}",
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

    def _add_key(self, content: list[str], width: float, y: float) -> float:
        """Add the variants' marks and names; return where they end."""
        x = _GAP
        for name, look in self.looks.items():
            room = 26 + LETTER * min(len(name), 40)
            if x + room > width and x > _GAP:
                x, y = _GAP, y + _LINE
            shape = mark(look.shape, x + 5, y + 8, 4.5)
            content.append(element("path", class_=f"{look} point", d=shape))
            content.append(element("text", text(name, 40), x=x + 14, y=y + 12))
            x += room
        return y + _LINE if self.looks else y


def _grid(panels: Sequence[Panel], width: float, y: float) -> tuple[list[str], float]:
    """Return panels in rows from y on, and where the last row ends."""
    columns = max(1, int((width - _GAP) // (panels[0].width + _GAP)))
    found = []
    for start in range(0, len(panels), columns):
        row = panels[start : start + columns]
        for column, panel in enumerate(row):
            x = _GAP + column * (panel.width + _GAP)
            moved = f"translate({number(x)} {number(y)})"
            found.append(element("g", panel.svg(), transform=moved))
        y += max(panel.height for panel in row) + _GAP
    return found, y


def _lines(words: str, width: float) -> list[str]:
    """Return a text in lines that fit a width."""
    most = max(20, int((width - 2 * _GAP) / (0.93 * LETTER)))
    lines: list[str] = []
    for word in words.split():
        if lines and len(lines[-1]) + len(word) < most:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _style(theme: Theme) -> str:
    """Return the style sheet of a document of its own."""
    ink = INK[theme]
    frame = f"text{{font:11px system-ui,sans-serif;fill:{ink['ink']}}}.page{{fill:{ink['page']}}}"
    return frame + "".join(rules(HUES[theme], ink))


def rules(hues: Iterable[str], ink: Mapping[str, str]) -> list[str]:
    """Return the style rules of the marks.

    Args:
        hues: Colour of each hue.
        ink: Colours of `page`, `ink`, `soft`, `grid` and `stopped`.

    """
    found = [
        f".soft{{fill:{ink['soft']}}}.title{{font-weight:600}}",
        f".grid{{stroke:{ink['grid']};fill:none}}.axis{{stroke:{ink['soft']};fill:none}}",
        f".rung{{stroke:{ink['soft']};fill:none;stroke-dasharray:2 3}}",
        ".line{fill:none;stroke-width:1.3;stroke-opacity:.6;stroke-linejoin:round}",
        ".step,.bar{stroke-width:2;stroke-opacity:1}.winner{stroke-width:3;stroke-opacity:1}",
        ".faint{stroke-width:1;stroke-opacity:.5}.band{fill-opacity:.14}",
        f".hollow{{fill:none;stroke-width:1.2}}.halo{{stroke:{ink['page']};stroke-width:3px;"
        "paint-order:stroke;stroke-linejoin:round}",
    ]
    colours = [*hues]
    for hue, colour in enumerate(colours):
        found.append(f".h{hue}.point,.h{hue}.band{{fill:{colour}}}")
        found.append(f".h{hue}.line,.h{hue}.hollow{{stroke:{colour}}}")
    found.append(f".point{{stroke:{ink['page']};stroke-width:.7}}")
    found.append(f".big{{stroke:{ink['ink']};stroke-width:1.4}}")
    found.append(f".stopped.line,.stopped.hollow{{stroke:{ink['stopped']}}}")
    found.append(".thin{stroke-width:.9}")
    found.append(f".cutoff{{stroke:{ink['ink']};stroke-width:2;fill:none}}")
    found.append(f".rest.line{{stroke:{ink['stopped']};stroke-width:.8;stroke-opacity:.4}}")
    found.append(".top{stroke-width:1.8;stroke-opacity:.9}.top.winner{stroke-width:3}")
    found += [f".shade{k}{{fill-opacity:{0.25 * (k + 1):g}}}" for k in range(4)]
    better, worse = colours[1], colours[2]
    found += [f".l{k}{{fill:{better};fill-opacity:{0.07 + 0.11 * k:g}}}" for k in range(6)]
    found.append(f".cell{{fill:{ink['grid']}}}.cell.tied{{fill:{ink['stopped']};fill-opacity:.5}}")
    found.append(f".cell.better{{fill:{better};fill-opacity:.3}}")
    found.append(f".cell.worse{{fill:{worse};fill-opacity:.3}}")
    return found
