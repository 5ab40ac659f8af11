"""Figures and tables in the documents, each from a committed result.

A document has `<!-- figure NAME -->...<!-- end -->`. `python docs/make_reference.py` writes what
stands between the two, and a test finds a figure that is no longer that of the result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from docs.markdown import table

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
"""The documents that may have figures."""
_MARK = re.compile(r"(<!-- figure ([\w-]+) -->)(.*?)(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """Return a document's text with all its figures as they are in the results."""
    return _MARK.sub(lambda found: f"{found[1]}{FIGURES[found[2]]()}{found[4]}", text)


def _result(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def _calibration(*words: str) -> float:
    """Return the largest share of simulated boards with a false verdict, over all cells."""
    cells = [cell for cell in _result("calibration")["cells"].values() if isinstance(cell, dict)]
    return max(cell[word] for cell in cells for word in words if word in cell)


def _rule(name: str, figure: str) -> float:
    (found,) = [rule for rule in _result("rungs")["rules"] if rule["rule"] == name]
    return float(found[figure]["mean"])


def _costs() -> str:
    rows = {row["contender"]: row for row in _result("sweep-cpu")["4"]["rows"]}
    names = {
        "samtune": "samtune",
        "ray": "bare Ray Tune",
        "syne-tune": "Syne Tune, local backend",
        "one-process": "a loop in one process",
    }
    own = rows["samtune"]["cpu_s"]
    lines = [
        (
            shown,
            f"{rows[name]['cpu_s']:.1f}",
            f"{rows[name]['wall_s']:.1f}",
            f"{rows[name]['cpu_s'] / own:.2g}",
        )
        for name, shown in names.items()
    ]
    return f"\n\n{table(('', 'CPU s', 'wall s', 'x CPU of samtune'), lines)}\n"


def _reliability() -> str:
    rows = [
        (name, each["value"], str(each["n"]))
        for name, each in _result("reliability")["figures"].items()
    ]
    return f"\n\n{table(('figure', 'seen', 'n'), rows)}\n"


FIGURES: dict[str, Callable[[], str]] = {
    "false-verdicts": lambda: f"{100 * _calibration('fixed 5', 'fixed 10'):.1f} %",
    "boards": lambda: f"{_result('calibration')['boards']:,}",
    "missed-at-40": lambda: f"{100 * _rule('stop 8 x 2', 'missed'):.1f} %",
    "missed-at-10": lambda: f"{100 * _rule('stop 2 x 3, tolerance 1', 'missed'):.0f} %",
    "spent-at-40": lambda: f"{100 * _rule('stop 8 x 2, tolerance 1', 'spent'):.0f} %",
    "spent-at-10": lambda: f"{100 * _rule('stop 2 x 3, tolerance 1', 'spent'):.0f} %",
    "costs": _costs,
    "reliability": _reliability,
}
