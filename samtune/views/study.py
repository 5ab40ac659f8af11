"""A study on a few lines: it may have hundreds of members, but only dozens of rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from samtune.messages import clock, unit

# More spaces than this are shown by rows.
MOST_SPACES = 12


def row_of(member: str, search: int) -> str:
    """Return the name that the searches of a row share: `sam` of `sam.2`."""
    return member.removesuffix(f".{search}") if search else member


def status_lines(studies: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line per row of a run with many spaces, from the `studies` of its status."""
    lines = []
    for row, members in _by_row(studies).items():
        searched = sum(_ended(study["states"]) >= study["trials"] for study in members)
        ended = sum(_ended(study["states"]) for study in members)
        trials = sum(study["trials"] for study in members)
        repeats = sum(study["repeats"].get("completed", 0) for study in members)
        best = [study["best"]["value"] for study in members if study["best"]]
        shown = f", best {members[0]['metric']} {_extremes(best)}" if best else ""
        early = [study["ended_early"] for study in members if study["ended_early"]]
        if early:
            causes = ", ".join(dict.fromkeys(why.partition(":")[0] for why in early))
            shown += f", {len(early)} ended early by {causes}"
        lines.append(
            f"  {row:24}searches {searched}/{len(members)}, "
            f"trials {ended}/{trials}, repeats {repeats}{shown}"
        )
    return lines


def plan_lines(plans: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the plan of a study: a line per row, and the sums."""
    kind = unit(plans[0]["budget_kind"])
    lines = [
        f"study {plans[0]['study']}: {len(plans)} searches of {len(_by_row(plans))} rows, "
        f"{sum(plan['trials'] for plan in plans)} trials"
    ]
    for row, members in _by_row(plans).items():
        first = members[0]
        lines.append(
            f"  {row:24}{len(members)} x {first['trials']} trials of at most "
            f"{first['budget_per_trial']:g} {kind}, about {_budget(members):.0f} {kind} in all"
        )
    search = sum(plan["budget_expected"] for plan in plans)
    select = sum(plan["select"]["budget"] for plan in plans if plan["select"])
    confirm = sum(plan["confirm"]["budget"] for plan in plans)
    lines.append(
        f"  about {search + select + confirm:.0f} {kind}: search {search:.0f}, "
        f"select {select:.0f}, confirm {confirm:.0f}"
    )
    times = [plan["estimate"]["seconds"] for plan in plans if plan["estimate"]]
    if len(times) == len(plans):
        lines.append(f"  about {clock(sum(times))}, an estimate from earlier runs")
    return lines


def _budget(plans: Iterable[Mapping[str, Any]]) -> float:
    return float(
        sum(
            plan["budget_expected"]
            + (plan["select"]["budget"] if plan["select"] else 0)
            + plan["confirm"]["budget"]
            for plan in plans
        )
    )


def _by_row(members: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for member in members:
        found.setdefault(row_of(member["space"], member["search"]), []).append(member)
    return found


def _ended(states: Mapping[str, int]) -> int:
    return sum(n for state, n in states.items() if state not in {"running", "paused", "cancelled"})


def _extremes(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.4f}" if low == high else f"{low:.4f} to {high:.4f}"
