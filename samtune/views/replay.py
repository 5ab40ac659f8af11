"""What another rule for the rungs would have spent and found, replayed over a run's whole curves.

Nothing is trained. A replay is exact where trials do not depend on each other: with a search that
learns from its trials, other stops would have led it to propose others.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from samtune.messages import unit
from samtune.record.folder import RunError
from samtune.record.record import Record
from samtune.record.rows import ReportRow, StudyRow
from samtune.search.rungs import Rungs, rungs_for, standard_error
from samtune.space.errors import read_document
from samtune.space.files import parse
from samtune.space.schema import AshaSettings
from samtune.space.search_space import SpaceError
from samtune.space.strict_yaml import Mark, Node, Problem
from samtune.space.strict_yaml import scalar as yaml_scalar


@dataclass(frozen=True)
class Curve:
    """All that a trial reports if nobody stops it: used so far, value, the value's standard error.

    It ends at its full budget, or by diverging: then its last value is not finite.
    """

    used: tuple[float, ...]
    values: tuple[float, ...]
    errors: tuple[float, ...]

    @property
    def final(self) -> float | None:
        """The value at the full budget; None for one that diverged."""
        return self.values[-1] if math.isfinite(self.values[-1]) else None


@dataclass(frozen=True)
class Outcome:
    """One replay. `spent` includes `audit`, what audited trials used after they were stopped;
    `span` is the time it takes if a unit of budget takes one. `regret` is what the chosen trial's
    value lacks to the best there is, and None if none reached its full budget. Of the `stopped`
    trials, `wrong` would have beaten the chosen one."""

    spent: float
    audit: float
    span: float
    reached: int
    stopped: int
    wrong: int
    chosen: int | None
    regret: float | None


@dataclass(frozen=True)
class Study:
    """The curves of one study. `unknown` counts the trials left out, by the state they ended in:
    nobody knows what they would have become."""

    name: str
    curves: list[Curve]
    unknown: dict[str, int]
    limit: float
    kind: str
    metric: str
    mode: str


def rules_of(texts: Sequence[str], own: AshaSettings) -> list[AshaSettings]:
    """The rules that the `texts` name, after `own`, the run's, with which they are compared.

    Raises SpaceError with every mistake in any of them.
    """
    rules, messages = [own], []
    for text in texts:
        try:
            rules.append(rule_of(text, own))
        except SpaceError as error:
            messages += error.messages
    if messages:
        raise SpaceError(messages)
    return list({rule_text(rule.model_dump()): rule for rule in rules}.values())


def rule_of(text: str, own: AshaSettings | None = None) -> AshaSettings:
    """The rule that `mode=promote,grace=4,...` names; what is left out is as in `own`, or has
    its default.

    Raises SpaceError with every mistake.
    """
    problems: list[Problem] = []
    words: dict[str, Node] = {}
    for item in text.split(","):
        mark = Mark(f"--asha {item.strip()}")
        word, equals, value = (part.strip() for part in item.partition("="))
        if not (word and equals and value):
            problems.append((mark, "write it as word=value, such as grace=4"))
        elif word in words:
            problems.append((mark, f"{word!r} is given twice"))
        else:
            words[word] = Node(yaml_scalar(value), mark, mark)
    nowhere = Mark("--asha")
    rest = own.model_dump() if own else {}
    words = {word: Node(value, nowhere, nowhere) for word, value in rest.items()} | words
    root = {"samtune": Node(1, nowhere, nowhere), "asha": Node(words, nowhere, nowhere)}
    document, found, _ = read_document(Node(dict(root), nowhere, nowhere))
    if problems + found:
        raise SpaceError([f"{mark}: {text}" for mark, text in problems + found])
    return document.asha


def study_of(record: Record, study: StudyRow) -> Study:
    """The study's whole curves. Raises RunError (exit code 2) when it has none."""
    reports: dict[int, dict[int, ReportRow]] = {}
    for report in record.reports():
        # A later attempt's report of an epoch takes the place of an earlier one's.
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
    return Study(
        study.name,
        curves,
        dict(unknown),
        config.budget.per_trial,
        config.budget.kind,
        config.metric,
        study.settings["mode"],
    )


def _limit(trials: Sequence[Any]) -> float:
    return float(trials[0].config.budget.per_trial) if trials else 20.0


def simulate(
    curves: Sequence[Curve], rungs: Rungs, order: Iterable[int], slots: int, mode: str
) -> Outcome:
    """Runs the trials, indices into `curves`, in this order on `slots` that are equally fast.

    As in a sweep: a free slot takes up a promoted trial if there is one, else a new one.
    """
    new = iter(order)
    reported = [0] * len(curves)
    # When the next report of each running trial comes, the earlier begun of equals first.
    running: list[tuple[float, int, int]] = []
    now, begun, audit = 0.0, 0, 0.0
    reached: set[int] = set()
    audited: set[int] = set()

    def next_report(trial: int) -> float:
        used, k = curves[trial].used, reported[trial]
        return now + used[k] - (used[k - 1] if k else 0.0)

    while True:
        while len(running) < slots:
            trial = rungs.promoted()
            if trial is None:
                trial = next(new, None)
            if trial is None:
                break
            begun += 1
            heapq.heappush(running, (next_report(trial), begun, trial))
        if not running:
            break
        now, turn, trial = heapq.heappop(running)
        curve, k = curves[trial], reported[trial]
        if trial in rungs.audited:
            audited.add(trial)
            audit += curve.used[k] - (curve.used[k - 1] if k else 0.0)
        reported[trial] += 1
        verdict = rungs.judge(trial, curve.used[k], curve.values[k], curve.errors[k])
        if reported[trial] == len(curve.used):
            if curve.final is None:
                rungs.ended(trial)
            else:
                reached.add(trial)
        elif verdict.decision == "continue":
            heapq.heappush(running, (next_report(trial), turn, trial))

    sign = 1 if mode == "max" else -1
    finals = {k: sign * v for k, curve in enumerate(curves) if (v := curve.final) is not None}
    audited &= rungs.audited
    stopped = {k for k, count in enumerate(reported) if count < len(curves[k].used)} | audited
    # Of equals the first wins, as on the leaderboard. An audited trial has no say here: the
    # question is what the rule would have found by itself.
    chosen = max(sorted(reached - audited), key=finals.__getitem__, default=None)
    best = max(finals.values())
    return Outcome(
        spent=sum(c.used[n - 1] for c, n in zip(curves, reported, strict=True) if n),
        audit=audit,
        span=now,
        reached=len(reached - audited),
        stopped=len(stopped),
        wrong=sum(chosen is None or finals[k] > finals[chosen] for k in stopped & set(finals)),
        chosen=chosen,
        regret=None if chosen is None else best - finals[chosen],
    )


def replay(study: Study, rule: AshaSettings, slots: int, seeds: int) -> list[Outcome]:
    """The rule over the study's curves in `seeds` random orders of arrival."""
    outcomes = []
    for seed in range(1, seeds + 1):
        order = list(range(len(study.curves)))
        random.Random(seed).shuffle(order)
        rungs = rungs_for(rule, study.limit, study.mode, len(order), seed)
        outcomes.append(simulate(study.curves, rungs, order, slots, study.mode))
    return outcomes


def summary(outcomes: Sequence[Outcome], trials: int) -> dict[str, float | int | None]:
    """Means over the orders; `missed` is the share of orders in which the best was not found."""
    regrets = [outcome.regret for outcome in outcomes if outcome.regret is not None]
    stopped = sum(outcome.stopped for outcome in outcomes)
    return {
        "spent": fmean(outcome.spent for outcome in outcomes),
        "audit": fmean(outcome.audit for outcome in outcomes),
        "span": fmean(outcome.span for outcome in outcomes),
        "regret": fmean(regrets) if regrets else None,
        "regret_worst": max(regrets, default=None),
        "missed": fmean(outcome.regret is None or outcome.regret > 0 for outcome in outcomes),
        "reached_end": fmean(outcome.reached / trials for outcome in outcomes),
        "wrong_stops": sum(o.wrong for o in outcomes) / stopped if stopped else 0.0,
        "without_winner": len(outcomes) - len(regrets),
    }


def report(record: Record, texts: Sequence[str], slots: int, seeds: int) -> list[dict[str, Any]]:
    """For each study of the run: its curves, and what the rules do with them, its own first.

    Raises SpaceError for mistakes in the `texts`, and RunError as `study_of` does.
    """
    found = []
    for row in record.studies():
        document, _, _ = read_document(parse(row.space.encode(), row.name))
        rules = rules_of(texts, document.asha)
        study = study_of(record, row)
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
                    | summary(replay(study, rule, slots, seeds), len(study.curves))
                    for rule in rules
                ],
            }
        )
    return found


HEADINGS = (
    *("rule", "spent", "of all", "time", "regret", "worst", "missed", "reach end", "wrong stops"),
)


def text(study: dict[str, Any]) -> str:
    """One study's replay for people."""
    kind = unit(study["budget_kind"])
    lines = [
        f"{study['space']}: {study['curves']} curves of {study['budget_per_trial']:g} {kind}, "
        f"{study['budget_of_all']:g} {kind} in all; best {study['metric']} {study['best']:.4f}; "
        f"{study['slots']} at a time, mean of {study['seeds']} orders"
    ]
    if study["unknown"]:
        states = ", ".join(f"{count} {state}" for state, count in study["unknown"].items())
        lines.append(
            f"  left out, because nobody knows what they would have become: {states}; the rest "
            "survived a choice, so these figures are too good"
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


def rule_text(asha: dict[str, Any]) -> str:
    """`promote 4 x 3, tolerance 1`."""
    grace = asha["grace"] if isinstance(asha["grace"], str) else f"{asha['grace']:g}"
    said = f"{asha['mode']} {grace} x {asha['factor']:g}"
    return said + "".join(f", {w} {asha[w]:g}" for w in ("tolerance", "audit") if asha[w])
