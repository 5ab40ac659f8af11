"""The one style sheet of a page: marks, colours of both themes, and what its boxes hide."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files

from analysis.charts.figure import rules
from analysis.charts.palette import HUES, INK, THEMES, Theme, looks


def style_sheet(variants: Sequence[str], main: str) -> str:
    """Return the one style sheet: that of the file, the colours, and what the boxes hide."""
    colours = {theme: _colours(theme) for theme in THEMES}
    shades = {word: f"var(--{word})" for word in INK["light"]}
    hues = [f"var(--h{k})" for k in range(len(HUES["light"]))]
    found = [
        f":root{{{colours['light']}}}",
        "@media screen and (prefers-color-scheme:dark){:root:not(:has(#theme-light:checked))"
        f"{{color-scheme:dark;{colours['dark']}}}}}",
        f"@media screen{{:root:has(#theme-dark:checked){{color-scheme:dark;{colours['dark']}}}",
        ":root:has(#theme-light:checked){color-scheme:light}}",
        resource("page.css"),
        *rules(hues, shades),
        ":root:has(#show-stopped:not(:checked)) main .stopped{display:none}",
    ]
    for look in looks(variants).values():
        found.append(
            f":root:has(#show-{look.name}:not(:checked)) main .{look.name}{{display:none}}"
        )
    for owners in sorted(set(re.findall(r'<figure class="of-([\w-]+)"', main))):
        boxes = ",".join(f"#show-{look}:checked" for look in owners.split("-"))
        found.append(f":root:not(:has({boxes})) main .of-{owners}{{display:none}}")
    return "".join(found)


def _colours(theme: Theme) -> str:
    shades = [f"--{word}:{colour}" for word, colour in INK[theme].items()]
    hues = [f"--h{k}:{colour}" for k, colour in enumerate(HUES[theme])]
    return ";".join([*shades, *hues])


def resource(name: str) -> str:
    """Return a file beside this one, without the ends of its lines."""
    lines = files("analysis.report").joinpath(name).read_text(encoding="utf-8").splitlines()
    return "".join(f"{line.strip()}\n" for line in lines if line.strip())
