"""One page of HTML for runs: verdicts, charts and tables, with no network and little script."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files

import pandas as pd

from analysis.charts import KINDS, Kind
from analysis.charts.figure import rules
from analysis.charts.frame import WIDTH, Panel
from analysis.charts.metric import Metric
from analysis.charts.palette import HUES, INK, THEMES, Look, Theme, looks
from analysis.charts.sample import Tables, by_question
from analysis.charts.svg import text, visible
from analysis.report import lists
from analysis.report.html import data, fingerprint, name, tag
from analysis.summary import summary
from samtune.messages import SEE

_WIDE = 1080.0
_THEMES = {"auto": "as the system", "light": "light", "dark": "dark"}


def page(tables: Tables, spaces: Mapping[str, str], reload_s: int | None = None) -> str:
    """Return a page that a browser shows without anything else.

    Args:
        tables: The tables `trials`, `curves`, `repeats`, `leaderboard` and `pairs` of one or
            several runs.
        spaces: The frozen text of each space, by what it is called.
        reload_s: After how many seconds the page loads itself again; None for a page that stays.

    """
    parts = by_question(tables)
    board = tables["leaderboard"]
    variants = list(dict.fromkeys(board["variant"]))
    runs = ", ".join(dict.fromkeys(board["run"]))
    body = [_section("q", k, heading, part, len(parts)) for k, (heading, part) in enumerate(parts)]
    frozen = tag("h2", "Versions and frozen spaces", id="origin")
    origin = frozen + lists.origin(tables["trials"], spaces)
    main = "".join([*body, tag("section", origin, aria_labelledby="origin")])
    style, script = _style(variants, main), _resource("page.js")
    told = data(_told(parts, main))
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(style, script)),
        tag("meta", name="viewport", content="width=device-width,initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="refresh", content=str(reload_s)) if reload_s else "",
        tag("title", text(f"{runs}: samtune report", 100)),
        f"<style>{style}</style>",
    ]
    whole = [
        tag("a", "Skip to the results", class_="skip", href="#main"),
        _header(runs, parts, board, tables["trials"]),
        _bar(variants),
        tag("main", main, id="main"),
        tag("footer", tag("p", "samtune report. " + text(SEE, 200) + ".")),
        tag("div", "", id="status", class_="unseen", role="status"),
        f'<script type="application/json" id="told">{told}</script><script>{script}</script>',
    ]
    return (
        '<!doctype html><html lang="en"><head>'
        + "".join(head)
        + "</head>"
        + tag("body", "".join(whole))
        + "</html>\n"
    )


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; style-src {fingerprint(style)}; script-src {fingerprint(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _header(
    runs: str, parts: Sequence[tuple[str, Tables]], board: pd.DataFrame, trials: pd.DataFrame
) -> str:
    """Return the names of the runs, the verdicts in words, and the figures of the search."""
    words = []
    for heading, part in parts:
        words.append(tag("p", text(heading, 300), class_="question"))
        said = summary(part["leaderboard"], part["pairs"])
        words.append(tag("p", text(said, 2000), class_="verdict"))
    if not parts:
        words.append(tag("p", "No trial is on record yet.", class_="verdict"))
    states = trials["state"].value_counts()
    ended = int(states.get("completed", 0)), int(states.get("pruned", 0))
    tiles = {
        "rows": f"{len(board):,}",
        "trials": f"{len(trials):,}",
        "trained to the end": f"{ended[0]:,}",
        "stopped at rungs": f"{ended[1]:,}",
        "failed or open": f"{len(trials) - sum(ended):,}",
        "see spent by searches": f"{trials['see'].sum():,.0f}",
    }
    boxes = "".join(
        tag("li", tag("b", figure) + tag("span", label)) for label, figure in tiles.items()
    )
    links = "".join(
        tag("li", tag("a", title, href=f"#{mark}")) for mark, title in _contents(parts)
    )
    contents = tag("details", tag("summary", "Contents") + tag("ol", links))
    title = tag("h1", name(runs, 120))
    return tag("header", title + "".join(words) + tag("ul", boxes, class_="tiles") + contents)


def _contents(parts: Sequence[tuple[str, Tables]]) -> Iterable[tuple[str, str]]:
    for k, (heading, _) in enumerate(parts):
        if len(parts) > 1:
            yield f"q{k}", text(heading, 120)
        else:
            for mark, title, _ in _PARTS:
                yield f"q{k}-{mark}", title
    yield "origin", "Versions and frozen spaces"


def _bar(variants: Sequence[str]) -> str:
    """Return real boxes for what is shown, which work without a script."""
    chips = [
        tag(
            "label",
            tag("input", type="checkbox", id=f"show-{look.name}", checked="")
            + lists.key(variant)
            + name(variant, 30),
            class_="chip",
        )
        for variant, look in looks(variants).items()
    ]
    box = tag("input", type="checkbox", id="show-stopped", checked="")
    chips.append(tag("label", f"{box}stopped trials", class_="chip"))
    themes = [
        tag(
            "label",
            tag(
                "input",
                type="radio",
                name="theme",
                id=f"theme-{theme}",
                value=theme,
                checked="" if theme == "auto" else None,
            )
            + theme,
            class_="chip",
            title=about,
        )
        for theme, about in _THEMES.items()
    ]
    show = tag("fieldset", tag("legend", "Show") + "".join(chips))
    theme = tag("fieldset", tag("legend", "Theme") + "".join(themes))
    return tag("form", show + theme, class_="controls", aria_label="What the page shows")


def _section(mark: str, k: int, heading: str, part: Tables, questions: int) -> str:
    """Return the charts and tables of one question."""
    level = "h3" if questions > 1 else "h2"
    found = []
    for each, title, caption in _PARTS:
        body = _lists(each, part, questions) if each in _LISTS else _chart(KINDS[each], part)
        if each == "leaderboard":
            body += lists.leaderboard(part["leaderboard"])
        if not body:
            continue
        label = f"{mark}{k}-{each}"
        note = tag("p", text(caption, 400), class_="note") if caption else ""
        inside = tag(level, title, id=label) + note + body
        found.append(tag("section", inside, aria_labelledby=label))
    if questions == 1:
        return "".join(found)
    return tag("h2", text(heading, 200), id=f"{mark}{k}") + "".join(found)


_LISTS = {
    "failures": ("What failed, and why", ""),
    "trials": ("Trials", ""),
}
_PARTS = [
    *((kind, about.title, about.caption) for kind, about in KINDS.items()),
    *((kind, title, caption) for kind, (title, caption) in _LISTS.items()),
]


def _lists(kind: str, part: Tables, questions: int) -> str:
    if kind == "failures":
        return lists.failures(part)
    inside = tag("summary", "Show the table") + lists.trials(part, questions)
    return tag("details", inside)


def _chart(kind: Kind, part: Tables) -> str:
    """Return the panels of a chart; a wide one is drawn for phones as well."""
    wide = kind.panels(part, _WIDE)
    if not wide:
        return ""
    if all(panel.width <= WIDTH for panel in wide):
        return tag("div", "".join(map(_figure, wide)), class_="panels")
    small = "".join(map(_figure, kind.panels(part, WIDTH)))
    large = "".join(map(_figure, wide))
    return tag("div", large, class_="large") + tag("div", small, class_="small")


def _figure(panel: Panel) -> str:
    """Return a panel that goes when all its variants are switched off."""
    return tag("figure", panel.svg(tabindex=0), class_=_owners(panel.looks) or None)


def _owners(shown: Iterable[Look]) -> str:
    names = [look.name for look in shown]
    return f"of-{'-'.join(names)}" if names else ""


def _style(variants: Sequence[str], main: str) -> str:
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
        _resource("page.css"),
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


def _told(parts: Sequence[tuple[str, Tables]], main: str) -> dict[int, list[str]]:
    """Return what is told of each trial that the page shows, by its number."""
    shown = set(map(int, re.findall(r'data-k="(\d+)"', main)))
    found = {}
    for _, part in parts:
        trials = part["trials"]
        metric = Metric.of(trials)
        for row in trials[trials["key"].isin(shown)].to_dict("records"):
            state = "trained to the end" if row["full"] else row["state_reason"] or row["state"]
            value = metric.shown(row.get(metric.name))
            found[int(row["key"])] = [
                visible(f"{row['row']}, trial {row['trial']}", 80),
                visible(f"{value}, {state}{', the winner' if row['won'] else ''}", 160),
                visible(lists.knobs(row), 200),
            ]
    return found


def _resource(name: str) -> str:
    """Return a file beside this one, without the ends of its lines."""
    lines = files("analysis.report").joinpath(name).read_text(encoding="utf-8").splitlines()
    return "".join(f"{line.strip()}\n" for line in lines if line.strip())
