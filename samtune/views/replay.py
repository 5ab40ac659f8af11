"""Replay of other rung rules on a run, with their cost and result: `samtune replay`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from samtune.messages import unit
from samtune.record import published, tables
from samtune.record.curves import metric_columns
from samtune.record.folder import RunError
from samtune.record.reader import Reader
from samtune.record.rows import ReportRow, StudyRow
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
    studies = [(row.name, row.space, partial(curves_of, record, row)) for row in record.studies()]
    return _replayed(studies, texts, slots, seeds)


def replay_of_published(
    folder: Path, texts: Sequence[str], slots: int, seeds: int
) -> list[dict[str, Any]]:
    """Return what `replay_of` returns, for a folder that `samtune publish` wrote.

    Raises:
        SpaceError: every mistake in the texts.
        RunError: the folder is not as it was published, or a study has no whole curve.
    """
    published.verify(folder)
    columns = ["trial_key", "study", "state", "n_val", "budget_max", "budget_kind", "mode"]
    trials = tables.read(folder / "trials.parquet", "trials", [*columns, "metric"]).to_pylist()
    metric = next((str(trial["metric"]) for trial in trials), "val_acc")
    value = metric_columns("curves", [metric])[metric]
    columns = ["trial_key", "epoch", "used", "superseded", value]
    reports: dict[str, list[dict[str, Any]]] = {}
    for report in tables.read(folder / "curves.parquet", "curves", columns).to_pylist():
        if not report["superseded"]:
            reports.setdefault(report["trial_key"], []).append(report)
    studies = []
    for number, path in enumerate(sorted((folder / "spaces").glob("*.yaml"))):
        name = path.stem.partition(".")[2]
        known = []
        for trial in trials:
            if trial["study"] == number:
                own = sorted(reports.get(trial["trial_key"], []), key=lambda r: r["epoch"])
                points = [(r["used"], math.nan if r[value] is None else r[value]) for r in own]
                known.append((str(trial["state"]), points, trial["n_val"]))
        about = next((trial for trial in trials if trial["study"] == number), trials[0])
        search = StudyCurves(
            name, [], {}, about["budget_max"], about["budget_kind"], metric, about["mode"]
        )
        studies.append((name, path.read_text(), partial(_whole, folder.name, search, known)))
    return _replayed(studies, texts, slots, seeds)


def _replayed(
    studies: Sequence[tuple[str, str, Callable[[float | None], StudyCurves]]],
    texts: Sequence[str],
    slots: int,
    seeds: int,
) -> list[dict[str, Any]]:
    """Return the results for studies, each with its name, its space and its curves.

    A study that has nothing to replay has the reason as `left_out`.
    """
    found: list[dict[str, Any]] = []
    for name, space, curves in studies:
        document, _, _ = read_document(parse(space.encode(), name))
        rules = rules_of(texts, document.asha)
        try:
            study = curves(document.asha.until)
        except RunError as error:
            if len(studies) == 1:
                raise
            found.append({"space": name, "left_out": str(error)})
            continue
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


# The budget that the advice names where a study has no trial.
_LIMIT = 20.0

HEADINGS = (
    *("rule", "spent", "of all", "time", "regret", "worst", "missed", "reach end", "wrong stops"),
)


def replay_text(study: dict[str, Any]) -> str:
    """Return a result of `replay_of` for one study as text."""
    if "left_out" in study:
        return f"{study['space']}: {study['left_out']}"
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


def curves_of(record: Reader, study: StudyRow, until: float | None = None) -> StudyCurves:
    """Return the study's whole curves. Raise RunError (exit code 2) when it has none.

    Args:
        record: the run.
        study: the study.
        until: its `asha.until`.
    """
    reports: dict[int, dict[int, ReportRow]] = {}
    for report in record.reports():
        # A later attempt's report of an epoch replaces an earlier one's.
        reports.setdefault(report.trial, {})[report.epoch] = report
    trials = list(record.trials(study=study.study, stage="search"))
    known = []
    for trial in trials:
        own = sorted(reports.get(trial.trial, {}).values(), key=lambda report: report.epoch)
        points = [(report.used, report.value) for report in own]
        known.append((str(trial.state), points, trial.facts.get("n_val")))
    config = trials[0].config if trials else None
    search = StudyCurves(
        study.name,
        [],
        {},
        _LIMIT if config is None else config.budget.per_trial,
        "compute" if config is None else config.budget.kind,
        "val_acc" if config is None else config.metric,
        study.settings["mode"],
    )
    return _whole(record.name, search, known, until)


def _whole(
    name: str,
    search: StudyCurves,
    trials: Sequence[tuple[str, Sequence[tuple[float, float]], Any]],
    until: float | None,
) -> StudyCurves:
    """Return a search with its whole curves. Raise RunError (exit code 2) when it has none.

    Args:
        name: the run.
        search: the search without its curves.
        trials: the state of each trial, the budget used and the value of each report, and the
            size of the validation split.
        until: the search's `asha.until`.
    """
    curves, unknown = [], Counter[str]()
    for state, points, n_val in trials:
        at_limit = bool(points) and points[-1][0] >= search.limit * (1 - 1e-9)
        # A completed trial may end a little below its budget, where the next epoch would not fit;
        # under `asha.until` it ends far below.
        whole = (state == "completed" and (at_limit or until is None)) or (
            state == "pruned" and at_limit
        )
        diverged = state == "diverged"
        if not points or not (diverged or whole):
            unknown[state] += 1
            continue
        values = [value for _, value in points]
        if diverged:
            values[-1] = math.nan
        errors = [standard_error(search.metric, value, n_val) for value in values]
        curves.append(Curve(tuple(used for used, _ in points), tuple(values), tuple(errors)))
    if not any(curve.final is not None for curve in curves):
        raise RunError(
            f"{name} has no trial of {search.name} that used its full budget, so there is "
            "nothing to replay; run the space without early stopping first: "
            f"samtune run {search.name} --no-confirm --set search.method=random "
            f"--set asha.grace={search.limit:g} --set asha.until={search.limit:g}",
            exit_code=2,
        )
    return replace(search, curves=curves, unknown=dict(unknown))
