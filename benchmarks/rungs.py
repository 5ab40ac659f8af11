"""Measure what each rule for the rungs spends, and how often it misses the best trial.

`python -m benchmarks.rungs` replays the rules on the full curves of `benchmarks.rung_curves`. This
takes a minute and trains nothing. README.md explains the columns.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy import stats

from benchmarks.environment import environment
from benchmarks.rung_curves import TABLE
from samtune.search.rungs import standard_error
from samtune.space.schema import AshaSettings
from samtune.views.rules import rule_text
from samtune.views.simulation import Curve, Outcome, StudyCurves, simulated

LEVELS = ((2, 2), (2, 3), (4, 2), (4, 3), (6, 3), (8, 2), (10, 2))
MODES = ("stop", "promote", "halving")
TOLERANCES = (0, 0.5, 1)
Kind = tuple[str, float]
"""Mode and tolerance."""
HEADINGS = ("rule", "spent %", "time", "regret pp", "on test pp", "missed %", "within 1 se %")


@dataclass(frozen=True)
class Seed:
    """The full curves of one search, and the test accuracy at the end of each."""

    study: StudyCurves
    test: list[float]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables and, with `--json`, write them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rungs", description=__doc__)
    parser.add_argument("--curves", type=Path, default=TABLE, metavar="FILE")
    parser.add_argument("--orders", type=int, default=20, help="orders of arrival a seed")
    parser.add_argument("--slots", type=int, default=4, help="trials at a time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there")
    chosen = parser.parse_args(arguments)
    about = environment("numpy", "scipy", "pyarrow")
    seeds = searches(chosen.curves)
    rules = [
        AshaSettings(mode=mode, grace=grace, factor=factor, tolerance=tolerance)
        for grace, factor in LEVELS
        for mode in MODES
        for tolerance in TOLERANCES
    ]
    rows = [row(seeds, rule, chosen.slots, chosen.orders) for rule in rules]
    shipped = [AshaSettings(mode=mode, grace=8, factor=2) for mode in MODES]
    by_slots = [row(seeds, rule, slots, chosen.orders) for slots in (1, 4, 16) for rule in shipped]
    total = fmean(sum(c.used[-1] for c in seed.study.curves) for seed in seeds)
    print(
        f"{len(seeds)} searches of {len(seeds[0].test)} configurations, {total:g} see each "
        f"without stopping; {chosen.slots} trials at a time, {chosen.orders} orders of arrival\n"
    )
    show(rows)
    print("\nBy trials at a time:\n")
    show(by_slots)
    pairs = [((mode, 0), (mode, t)) for mode in MODES for t in TOLERANCES[1:]]
    pairs += [(("stop", t), (mode, t)) for t in (0, 1) for mode in MODES[1:]]
    differences = [difference(rows, plain, other) for plain, other in pairs]
    print("\nDifferences in points, over all grace and factor:\n")
    show_differences(differences)
    if chosen.json:
        results = {
            "environment": about,
            "curves": chosen.curves.name,
            "curves_made": {
                key.decode().removeprefix("samtune."): value.decode()
                for key, value in pq.read_schema(chosen.curves).metadata.items()
                if key.startswith(b"samtune.")
            },
            "searches": len(seeds),
            "configurations": len(seeds[0].test),
            "see_without_stopping": total,
            "orders": chosen.orders,
            "rules": rows,
            "by_slots": by_slots,
            "differences": differences,
        }
        lines = json.dumps(results, indent=1)
        # One line per seed, so that the file stays readable.
        chosen.json.write_text(re.sub(r"\n\s+(?=[^\[\]{}]*\})|\n\s+(?=\})", " ", lines) + "\n")
        print(f"\nwrote {chosen.json}")


def searches(path: Path) -> list[Seed]:
    """Return the curves of each seed."""
    found: dict[int, dict[int, list[dict[str, Any]]]] = {}
    for report in pq.read_table(path).to_pylist():
        found.setdefault(report["seed"], {}).setdefault(report["trial"], []).append(report)
    limit = float(pq.read_schema(path).metadata[b"samtune.per_trial"])
    seeds = []
    for seed, trials in found.items():
        curves = [
            Curve(
                tuple(report["used"] for report in reports),
                tuple(
                    report["val_acc"] if math.isfinite(report["train_loss"]) else math.nan
                    for report in reports
                ),
                tuple(
                    standard_error("val_acc", report["val_acc"], report["n_val"])
                    for report in reports
                ),
            )
            for reports in trials.values()
        ]
        study = StudyCurves(f"seed {seed}", curves, {}, limit, "compute", "val_acc", "max")
        seeds.append(Seed(study, [reports[-1]["test_acc"] for reports in trials.values()]))
    return seeds


def row(seeds: Sequence[Seed], rule: AshaSettings, slots: int, orders: int) -> dict[str, Any]:
    """Return the means of a rule over orders, then over seeds with a 95 % t-interval."""
    by_seed = []
    for seed in seeds:
        outcomes = simulated(seed.study, rule, slots, orders)
        assert all(outcome.chosen is not None for outcome in outcomes)
        by_seed.append(measured(seed, outcomes))
    return {
        "rule": rule_text(rule.model_dump()),
        "asha": rule.model_dump(),
        "slots": slots,
        **{name: interval([one[name] for one in by_seed]) for name in by_seed[0]},
        "by_seed": [
            {name: round(one[name], 6) for name in ("spent", "regret", "missed")}
            for one in by_seed
        ],
    }


def measured(seed: Seed, outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return the figures of one seed as shares of 1: of budget, of accuracy and of orders."""
    finals = [curve.final for curve in seed.study.curves]
    best = max(final for final in finals if final is not None)
    full = sum(curve.used[-1] for curve in seed.study.curves)
    error = standard_error("val_acc", best, 297)
    regrets = [outcome.regret or 0.0 for outcome in outcomes]
    # If several trials are best on validation, the leaderboard takes the first. Here all count.
    test = fmean(t for t, final in zip(seed.test, finals, strict=True) if final == best)
    return {
        "spent": fmean(outcome.spent for outcome in outcomes) / full,
        "time": fmean(outcome.span for outcome in outcomes),
        "regret": fmean(regrets),
        "test_regret": test - fmean(seed.test[o.chosen] for o in outcomes if o.chosen is not None),
        "missed": fmean(regret > 0 for regret in regrets),
        "within_one_error": fmean(regret <= error for regret in regrets),
        "wrong_stops": sum(o.wrong for o in outcomes) / max(1, sum(o.stopped for o in outcomes)),
        "reached_end": fmean(outcome.reached / len(finals) for outcome in outcomes),
    }


def difference(rows: Sequence[dict[str, Any]], plain: Kind, other: Kind) -> dict[str, Any]:
    """Return the figures of the rules of kind `other` minus those of `plain`, paired by seed.

    At equal grace and factor, this is the mean over these. At equal spending, it is the mean
    distance between the two lines through the points (spent, regret) of the rules, over the range
    that both cover.
    """
    sides = [
        [one["by_seed"] for one in rows if (one["asha"]["mode"], one["asha"]["tolerance"]) == kind]
        for kind in (plain, other)
    ]
    found: dict[str, list[float]] = {"spent": [], "regret": [], "missed": [], "equal_spent": []}
    for seed in range(len(sides[0][0])):
        a, b = ([one[seed] for one in side] for side in sides)
        for name in ("spent", "regret", "missed"):
            found[name].append(fmean(y[name] - x[name] for x, y in zip(a, b, strict=True)))
        lines = [sorted((one["spent"], one["regret"]) for one in side) for side in (a, b)]
        both = np.linspace(max(x[0][0] for x in lines), min(x[-1][0] for x in lines), 101)
        low, high = (np.interp(both, *zip(*line, strict=True)) for line in lines)
        found["equal_spent"].append(float(np.mean(high - low)))
    return {
        "plain": f"{plain[0]}, tolerance {plain[1]:g}",
        "other": f"{other[0]}, tolerance {other[1]:g}",
        **{name: interval(values) for name, values in found.items()},
    }


def interval(values: Sequence[float]) -> dict[str, float]:
    """Return the mean, and the half width of its 95 % t-interval."""
    half = stats.t.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return {"mean": fmean(values), "half": float(half)}


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows in Markdown, in bold those that no other beats in spent and regret."""
    lines = [HEADINGS]
    for one in rows:
        beaten = any(
            other["spent"]["mean"] <= one["spent"]["mean"]
            and other["regret"]["mean"] <= one["regret"]["mean"]
            and (other["spent"], other["regret"]) != (one["spent"], one["regret"])
            for other in rows
        )
        name = one["rule"] if beaten else f"**{one['rule']}**"
        if len({other["slots"] for other in rows}) > 1:
            name = f"{one['rule']}, {one['slots']} at a time"

        def share(word: str, digits: int, of: dict[str, Any] = one) -> str:
            mean, half = 100 * of[word]["mean"], 100 * of[word]["half"]
            return f"{mean:.{digits}f} ± {half:.{digits}f}"

        lines.append(
            (
                *(name, share("spent", 0), f"{one['time']['mean']:.0f}"),
                *(share("regret", 2), share("test_regret", 2)),
                *(share("missed", 0), share("within_one_error", 0)),
            )
        )
    table(lines)


def show_differences(differences: Sequence[dict[str, Any]]) -> None:
    """Print the differences between the kinds of rules, in points."""
    lines: list[tuple[str, ...]] = [
        ("", "spent", "missed", "regret", "regret at equal spending"),
    ]
    for one in differences:
        cells = [
            f"{100 * one[name]['mean']:+.{digits}f} ± {100 * one[name]['half']:.{digits}f}"
            for name, digits in (("spent", 1), ("missed", 1), ("regret", 2), ("equal_spent", 2))
        ]
        lines.append((f"{one['other']} against {one['plain']}", *cells))
    table(lines)


def table(lines: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = tuple("-" * width for width in widths)
    for line in (lines[0], rule, *lines[1:]):
        cells = [line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
