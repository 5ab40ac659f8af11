"""One page of HTML for runs: verdicts, charts and tables, with no network and little script."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pandas as pd

from analysis.charts.metric import Metric
from analysis.charts.palette import looks
from analysis.charts.sample import Tables, by_question
from analysis.charts.svg import text, visible
from analysis.pareto import knobs
from analysis.report import lists
from analysis.report.html import data, fingerprint, name, tag
from analysis.report.sections import sections
from analysis.report.style import resource, style_sheet
from analysis.summary import summary
from samtune.messages import SEE

_ORIGIN = "Versions and frozen spaces"
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
    body, links = "", []
    for k, (heading, part) in enumerate(parts):
        own = sections(f"q{k}", part, len(parts))
        if len(parts) > 1:
            body += tag("h2", text(heading, 200), id=f"q{k}")
            links.append((f"q{k}", text(heading, 120)))
        else:
            links += [(each.mark, each.title) for each in own]
        body += "".join(each.html for each in own)
    links.append(("origin", _ORIGIN))
    origin = tag("h2", _ORIGIN, id="origin") + lists.origin(tables["trials"], spaces)
    main = body + tag("section", origin, aria_labelledby="origin")
    style, script = style_sheet(variants, main), resource("page.js")
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
        tag("header", _header(runs, parts, board, tables["trials"]) + _contents(links)),
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
    title = tag("h1", name(runs, 120))
    return title + "".join(words) + tag("ul", boxes, class_="tiles")


def _contents(links: Sequence[tuple[str, str]]) -> str:
    items = "".join(tag("li", tag("a", title, href=f"#{mark}")) for mark, title in links)
    return tag("details", tag("summary", "Contents") + tag("ol", items))


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
                visible(knobs(row), 200),
            ]
    return found
