"""Replay of other rung rules on a run, with their cost and result: `samtune replay`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from samtune.messages import unit
from samtune.record.folder import RunError
from samtune.record.reader import Reader
from samtune.record.rows import ReportRow, StudyRow, TrialRow
from samtune.search.rungs import standard_error
from samtune.space.errors import read_document
from samtune.space.files import parse
from samtune.views.rules import rule_text, rules_of
from samtune.views.simulation import Curve, StudyCurves, simulated, summary


def replay_of(
    record: Reader, texts: Sequence[str], slots: int, seeds: int
) -> list[dict[str, Any]]:
    """Return the results of the rules on the curves of each study, the run's own rule first.

    Args:
        record: the run.
        texts: rules such as `mode=promote,grace=4`.
        slots: how many trials run at the same time.
        seeds: how many random orders of arrival are averaged.

    Raises:
        SpaceError: every mistake in the texts.
        RunError: a study has no whole curve (exit code 2).
    """
    found = []
    for row in record.studies():
        document, _, _ = read_document(parse(row.space.encode(), row.name))
        rules = rules_of(texts, document.asha)
        study = curves_of(record, row)
        finals = [value for curve in study.curves if (value := curve.final) is not None]
        found.append(
            {
                "space": study.name,
                "curves": len(study.curves),
                "diverged": len(study.curves) - len(finals),
                "unknown": study.unknown,
                "budget_per_trial": study.limit,
                "budget_kind": study.kind,
                "budget_of_all": sum(curve.used[-1] for curve in study.curves),
                "metric": study.metric,
                "best": max(finals) if study.mode == "max" else min(finals),
                "slots": slots,
                "seeds": seeds,
                "rules": [
                    {"asha": rule.model_dump(), "own": rule == document.asha}
                    | summary(simulated(study, rule, slots, seeds), len(study.curves))
                    for rule in rules
                ],
            }
        )
    return found


HEADINGS = (
    *("rule", "spent", "of all", "time", "regret", "worst", "missed", "reach end", "wrong stops"),
)


def replay_text(study: dict[str, Any]) -> str:
    """Return a result of `replay_of` for one study as text."""
    kind = unit(study["budget_kind"])
    lines = [
        f"{study['space']}: {study['curves']} curves of {study['budget_per_trial']:g} {kind}, "
        f"{study['budget_of_all']:g} {kind} in all; best {study['metric']} {study['best']:.4f}; "
        f"{study['slots']} at a time, mean of {study['seeds']} orders"
    ]
    if study["unknown"]:
        states = ", ".join(f"{count} {state}" for state, count in study["unknown"].items())
        lines.append(
            f"  left out, because their whole curves are not known: {states}; the others are a "
            "selection, so these figures are too good"
        )
    rows = [HEADINGS, *(_row(rule, study) for rule in study["rules"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]
        lines.append("  " + "  ".join(cells))
    for rule in study["rules"]:
        if rule["without_winner"]:
            lines.append(
                f"  {rule_text(rule['asha'])}: in {rule['without_winner']} orders no trial "
                "reached its full budget"
            )
    return "\n".join(lines)


def _row(rule: dict[str, Any], study: dict[str, Any]) -> tuple[str, ...]:
    def value(name: str) -> str:
        return "-" if rule[name] is None else f"{rule[name]:.4f}"

    return (
        rule_text(rule["asha"]) + (" (the run's own)" if rule["own"] else ""),
        f"{rule['spent']:.1f}",
        f"{rule['spent'] / study['budget_of_all']:.0%}",
        f"{rule['span']:.1f}",
        *(value("regret"), value("regret_worst")),
        *(f"{rule[name]:.0%}" for name in ("missed", "reached_end", "wrong_stops")),
    )


def curves_of(record: Reader, study: StudyRow) -> StudyCurves:
    """Return the study's whole curves. Raise RunError (exit code 2) when it has none."""
    reports: dict[int, dict[int, ReportRow]] = {}
    for report in record.reports():
        # A later attempt's report of an epoch replaces an earlier one's.
        reports.setdefault(report.trial, {})[report.epoch] = report
    trials = list(record.trials(study=study.study, stage="search"))
    curves, unknown = [], Counter[str]()
    for trial in trials:
        own = sorted(reports.get(trial.trial, {}).values(), key=lambda report: report.epoch)
        whole = bool(own) and own[-1].used >= trial.config.budget.per_trial * (1 - 1e-9)
        diverged = bool(own) and trial.state == "diverged"
        if not (diverged or (whole and trial.state in {"completed", "pruned"})):
            unknown[trial.state] += 1
            continue
        values = [report.value for report in own]
        if diverged:
            values[-1] = math.nan
        errors = [
            standard_error(trial.config.metric, value, trial.facts.get("n_val"))
            for value in values
        ]
        used = tuple(report.used for report in own)
        curves.append(Curve(used, tuple(values), tuple(errors)))
    if not any(curve.final is not None for curve in curves):
        raise RunError(
            f"{record.name} has no trial of {study.name} that used its full budget, so there is "
            "nothing to replay; run the space without early stopping first: "
            f"samtune run {study.name} --no-confirm --set search.method=random "
            f"--set asha.grace={_limit(trials):g}",
            exit_code=2,
        )
    config = trials[0].config
    return StudyCurves(
        study.name,
        curves,
        dict(unknown),
        config.budget.per_trial,
        config.budget.kind,
        config.metric,
        study.settings["mode"],
    )


def _limit(trials: Sequence[TrialRow]) -> float:
    return float(trials[0].config.budget.per_trial) if trials else 20.0
