"""The parts of a page about one question: its charts and its tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from analysis.charts import KINDS, Kind
from analysis.charts.frame import WIDTH, Panel
from analysis.charts.palette import Look
from analysis.charts.sample import Tables
from analysis.charts.svg import text
from analysis.report import lists
from analysis.report.html import tag

_WIDE = 1080.0


@dataclass(frozen=True)
class Section:
    """A part of a page: the id and the words of its heading, and its markup with the heading."""

    mark: str
    title: str
    html: str


def sections(mark: str, part: Tables, questions: int) -> list[Section]:
    """Return the charts and tables of one question, those that have something to show.

    Args:
        mark: What the ids of the sections begin with.
        part: The tables of the question.
        questions: How many the page has.

    """
    found = []
    for kind, about in KINDS.items():
        html = _chart(about, part)
        if kind == "leaderboard":
            html += lists.leaderboard(part["leaderboard"])
        if kind == "pareto" and html:
            html += lists.front(part["trials"])
        if html:
            note = tag("p", text(about.caption, 400), class_="note")
            found.append((kind, about.title, note + html))
    table = tag("summary", "Show the table") + lists.trials(part, questions)
    found.append(("failures", "What failed, and why", lists.failures(part)))
    found.append(("trials", "Trials", tag("details", table)))
    level = "h3" if questions > 1 else "h2"
    return [_section(f"{mark}-{kind}", title, html, level) for kind, title, html in found]


def _section(mark: str, title: str, html: str, level: str) -> Section:
    inside = tag(level, title, id=mark) + html
    return Section(mark, title, tag("section", inside, aria_labelledby=mark))


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
