"""Figures and tables in the documents, each from a committed result.

A document has `<!-- figure NAME -->...<!-- end -->`. `python docs/make_reference.py` writes what
stands between the two, and a test finds a figure that is no longer that of the result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from docs.markdown import table

ROOT = Path(__file__).parents[1]
READMES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md")
DOCUMENTS = sorted([*READMES, *(ROOT / "docs").rglob("*.md")])
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


def _cells(*words: str) -> dict[str, Any]:
    """Return the cells of the calibration that have one of the words in their name."""
    cells = _result("calibration")["cells"]
    return {name: cell for name, cell in cells.items() if any(word in name for word in words)}


def _families() -> str:
    """Return the largest share of boards with a false verdict, by noise and correlation."""
    plans = ("fixed 5", "fixed 10", "until decided")
    noises = {
        "gaussian": "normal",
        "skewed": "skewed",
        "unequal": "normal, sd of the rows from 0.5 to 2",
    }
    rows = []
    for noise, shown in noises.items():
        for rho in ("0", "0.3", "0.7"):
            found = [*_cells(f"{noise}, rho {rho},").values()]
            worst = [f"{100 * max(cell[plan] for cell in found):.1f} %" for plan in plans]
            ranks = f"{100 * min(cell['least rank coverage'] for cell in found):.1f} %"
            rows.append((shown, rho, *worst, ranks))
    heads = ("noise", "correlation", "5 seeds", "10 seeds", "until decided", "ranks cover")
    return f"\n\n{table(heads, rows)}\n"


def _task_coverage() -> str:
    found = _cells("coverage over").values()
    return f"{100 * min(found):.1f} to {100 * max(found):.1f} %"


def _power_distance() -> str:
    cells = _cells("power at").values()
    return f"{100 * max(abs(each['simulated'] - each['computed']) for each in cells):.1f} points"


def _rule(name: str, figure: str) -> float:
    (found,) = [rule for rule in _result("rungs")["rules"] if rule["rule"] == name]
    return float(found[figure]["mean"])


def _rungs() -> str:
    shown = {
        "stop 2 x 3, tolerance 1": ("10 %", "3"),
        "stop 4 x 2, tolerance 1": ("20 %", "2"),
        "stop 6 x 3, tolerance 1": ("30 %", "3"),
        "stop 8 x 2, tolerance 1": ("40 %", "2"),
    }
    rows = [
        (
            first,
            factor,
            f"{100 * _rule(rule, 'spent'):.0f} %",
            f"{100 * _rule(rule, 'missed'):.1f} %",
        )
        for rule, (first, factor) in shown.items()
    ]
    return f"\n\n{table(('first rung at', 'factor', 'spent', 'missed'), rows)}\n"


def _power() -> str:
    cells = _result("calibration")["cells"]

    def share(lead: str, seeds: int, alpha: str) -> str:
        power = cells[f"power at {lead} sd, {seeds} seeds, alpha {alpha}"]["computed"]
        return f"{100 * power:.0f} %"

    rows = [
        (f"{lead} sd", *(share(lead, n, a) for a in ("0.0500", "0.0024") for n in (5, 10, 20)))
        for lead in ("0.5", "1", "1.5")
    ]
    heads = [f"{rows}, {n} seeds" for rows in ("2 rows", "22 rows") for n in (5, 10, 20)]
    return f"\n\n{table(('lead', *heads), rows)}\n"


def _tutorial(name: str) -> str:
    return (ROOT / "docs" / "tutorial" / name).read_text().strip()


def _board() -> str:
    """Return the first columns of the tutorial's board, which fit a page."""
    lines = [line for line in _tutorial("board.txt").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    wanted = ("#", "variant", "test acc %", "against sgd", "verdict", "optimism pp")
    kept = [i for i, head in enumerate(cells[0]) if head in wanted]
    rows = [[row[i] for i in kept] for row in cells[2:]]
    return f"\n\n{table([cells[0][i] for i in kept], rows)}\n"


def _summary() -> str:
    """Return the sentence above the tutorial's board."""
    return f"\n\n> {_tutorial('board.txt').split(chr(10) * 2)[1]}\n\n"


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


def _boards() -> str:
    rows = [
        (
            *(f"{row[name]:,}" for name in ("trials", "reports")),
            *(f"{row[name]:.1f}" for name in ("wall_s", "cpu_s")),
            f"{row['peak_mb']:,.0f}",
        )
        for row in _result("scale-board")["rows"]
    ]
    made = table(("trials", "reports", "wall s", "CPU s", "peak MiB"), rows)
    load = _result("scale-board")["environment"]["load"]
    return f"\n\n{made}\nTwo cores that other work shared: their load was {load:g}.\n\n"


def _reliability() -> str:
    rows = [
        (name, each["value"], str(each["n"]))
        for name, each in _result("reliability")["figures"].items()
    ]
    return f"\n\n{table(('figure', 'seen', 'n'), rows)}\n"


def _counts(what: str) -> Iterator[tuple[str, dict[str, float], dict[str, float]]]:
    """Yield what was counted on the fake GPU: its name, and its counts before and now."""
    before, now = _result("launches-before")[what], _result("launches")[what]
    yield from ((name, before[name], counts) for name, counts in now.items())


def _launches_of_batches() -> str:
    rows = [
        (name, *(f"{each[kind]:.3g}" for kind in ("launches", "waits") for each in (before, now)))
        for name, before, now in _counts("batches")
    ]
    heads = ("a batch", "launches before", "now", "waits before", "now")
    return f"\n\n{table(heads, rows)}\n"


def _launches_of_steps() -> str:
    replayed, rows = _result("launches")["graphs"], []
    for name, before, now in _counts("steps"):
        outside = [f"{each['launches']}" for each in (before, now)]
        waits = [f"{each['waits']}" for each in (before, now)]
        whole = f"{now['launches'] + now['in_passes']}"
        if name in replayed or outside[0] != outside[1] or waits != ["0", "0"]:
            rows.append((name, *outside, *waits, whole, str(replayed.get(name, "-"))))
    heads = ("a step", "launches before", "now", "waits before", "now", "with passes", "replayed")
    return f"\n\n{table(heads, rows)}\n"


def _waits_of_epochs() -> str:
    before, now = (_result(name)["epochs"] for name in ("launches-before", "launches"))
    rows = [(name, str(before[name]), str(now[name])) for name in now]
    return f"\n\n{table(('the end of an epoch', 'waits before', 'now'), rows)}\n"


FIGURES: dict[str, Callable[[], str]] = {
    "false-verdicts": lambda: f"{100 * _calibration('fixed 5', 'fixed 10'):.1f} %",
    "boards": lambda: f"{_result('calibration')['boards']:,}",
    "false-looks": lambda: f"{100 * _calibration('until decided'):.1f} %",
    "launches-of-batches": _launches_of_batches,
    "launches-of-steps": _launches_of_steps,
    "waits-of-epochs": _waits_of_epochs,
    "missed-at-40": lambda: f"{100 * _rule('stop 8 x 2', 'missed'):.1f} %",
    "missed-at-10": lambda: f"{100 * _rule('stop 2 x 3, tolerance 1', 'missed'):.0f} %",
    "costs": _costs,
    "boards-of-many-trials": _boards,
    "families": _families,
    "power-distance": _power_distance,
    "task-coverage": _task_coverage,
    "monte-carlo": lambda: f"{100 * _result('calibration')['monte_carlo_error']:.2f} %",
    "power": _power,
    "rungs": _rungs,
    "tutorial-board": _board,
    "tutorial-plan": lambda: f"\n\n```text\n{_tutorial('plan.txt')}\n```\n\n",
    "tutorial-summary": _summary,
    "reliability": _reliability,
}
