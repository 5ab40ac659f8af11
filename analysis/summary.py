"""A board in words: who leads, whom it cannot be distinguished from, and what that would take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.board import is_accuracy, more
from analysis.verdicts import Key, key

_TURNED = {"better": "worse", "worse": "better"}
# What depends on the number of comparisons in the family.
_OF_FAMILY = ("verdict", "seeds_needed", "searches_needed")


def summary(board: pd.DataFrame, pairs: pd.DataFrame) -> str:
    """Return a summary: the leader, the undecided rows, and what would decide them.

    Args:
        board: Judged rows of one question.
        pairs: The pairs of the board; those of other questions are left out.

    """
    rows = board.to_dict("records")
    ranked = board[board["rank"].notna()].sort_values("rank")
    if ranked.empty:
        return "No configuration is confirmed, so there is no verdict."
    several = board["run"].nunique() > 1

    def label(row: Key) -> str:
        return "/".join(row) if several else row[1]

    first = key(ranked.iloc[0].to_dict())
    if len(ranked) == 1:
        return f"{label(first)} is the only confirmed row, so there is nothing to compare."
    own = _against_baseline(_of(pairs, first, {key(row) for row in rows}), first, rows)
    groups: dict[str, list[Key]] = {}
    for other, pair in own.items():
        groups.setdefault(pair["verdict"], []).append(other)
    named = {word: _listed([label(row) for row in rows]) for word, rows in groups.items()}
    parts = [f"{label(first)} leads."]
    if "better" in named:
        parts.append(f"It is better than {named['better']}.")
    if "worse" in named:
        parts.append(f"It is worse than {named['worse']} over what both completed.")
    if "tied" in named:
        parts.append(f"It is tied with {named['tied']}.")
    if "underpowered" in named:
        takes = _takes({label(row): own[row] for row in groups["underpowered"]})
        parts.append(f"It cannot be distinguished from {named['underpowered']}{takes}.")
    parts += _images({label(row): pair for row, pair in own.items()})
    return " ".join([*parts, *_margin(board, pairs), _about(list(own.values()))])


def _of(pairs: pd.DataFrame, first: Key, shown: set[Key]) -> dict[Key, dict[Any, Any]]:
    """Return the pairs of a row by the other row, with the word for the row."""
    found = {}
    for pair in pairs.to_dict("records"):
        a, b = (pair["run_a"], pair["space_a"]), (pair["run_b"], pair["space_b"])
        if first in (a, b) and {a, b} <= shown:
            word = pair["verdict"]
            found[b if a == first else a] = pair | (
                {} if a == first else {"verdict": _TURNED.get(word, word)}
            )
    return found


def _against_baseline(
    own: Mapping[Key, dict[Any, Any]], first: Key, rows: Sequence[Mapping[Any, Any]]
) -> dict[Key, dict[Any, Any]]:
    """Return the pairs of a row, with the board's own words where one of the two is the baseline.

    The comparisons with the baseline are a family of their own, smaller than that of all pairs,
    so a decision may also take fewer seeds.
    """
    by_key = {key(row): row for row in rows}
    found = dict(own)
    for other, pair in own.items():
        if by_key[other]["verdict"] == "baseline":
            found[other] = pair | {name: by_key[first].get(name) for name in _OF_FAMILY}
        elif by_key[first]["verdict"] == "baseline":
            own_words = {name: by_key[other].get(name) for name in _OF_FAMILY}
            word = by_key[other]["verdict"]
            found[other] = pair | own_words | {"verdict": _TURNED.get(word, word)}
    return found


def _takes(undecided: Mapping[str, Mapping[Any, Any]]) -> str:
    """Return what the closest decision would take, at the differences seen."""
    counts = []
    for name, pair in undecided.items():
        kind = "searches" if pair["verdict_about"] == "variant" else "seeds"
        needed = pair[f"{kind}_needed"]
        if not pd.isna(needed):
            counts.append((needed - pair["n"], kind, name))
    if not counts:
        return ""
    count, kind, name = min(counts)
    which = "them" if len(undecided) == 1 else f"it from {name}"
    return f"; {more(count, kind)} each would distinguish {which}"


def _images(own: Mapping[str, Mapping[Any, Any]]) -> list[str]:
    """Return which decisions hold for the images of a shared test split alone."""
    named = [
        name
        for name, pair in own.items()
        if pair["verdict"] in _TURNED
        and not pd.isna(pair.get("images_lo"))
        and pair["images_lo"] <= 0 <= pair["images_hi"]
    ]
    if not named:
        return []
    return [
        "All repeats share one test split, and with other images of its kind the difference to "
        f"{_listed(named)} may vanish."
    ]


def _margin(board: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """Return which differences count as tied."""
    margins = [*board["margin"].dropna(), *pairs["margin"].dropna()]
    if not margins:
        return []
    accuracy = is_accuracy(str(board["metric"].iloc[0]))
    below = f"{100 * margins[0]:.2f} points" if accuracy else f"{margins[0]:.3g}"
    rule = "2 % of the baseline's value"
    if accuracy:
        rule = "2 % of the baseline's error, or one standard error of the test split if larger"
    if board["tie_margin"].notna().any():
        rule = "as the space says"
    return [f"Differences below {below} count as tied ({rule})."]


def _about(pairs: Sequence[Mapping[Any, Any]]) -> str:
    """Return what the verdicts are about: the variants, or the configurations that won."""
    kinds = {pair["verdict_about"] for pair in pairs}
    if kinds == {"variant"}:
        searches = {int(pair["n"]) for pair in pairs}
        count = f"{min(searches)} searches" + (" or more" if len(searches) > 1 else "")
        return f"The verdicts are about the variants, over {count} each."
    if "variant" in kinds:
        return (
            "Where a row has fewer than three searches, the verdict is about its configuration: "
            "search variance not measured."
        )
    return (
        "The verdicts are about one configuration per row: fewer than three searches each, "
        "search variance not measured."
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
