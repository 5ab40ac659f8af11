"""Replays of other rules over a run's whole curves, and the audit of stops, from the record."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typed import typed

from benchmarks.rung_curves import TABLE
from benchmarks.rungs import row as measure
from benchmarks.rungs import searches
from samtune.record.folder import RunError
from samtune.record.record import Record
from samtune.record.rows import State
from samtune.search.rungs import forecast, milestones, rungs_for
from samtune.space.schema import AshaSettings
from samtune.space.search_space import SpaceError
from samtune.trial import Budget, Seeds, TrialConfig
from samtune.views.audit import audit_used, wrong_stops
from samtune.views.replay import curves_of, replay_of, replay_text
from samtune.views.rules import rule_of
from samtune.views.simulation import Curve, simulate, simulated, summary

LIMIT = 8
STUDY = {
    **{"name": "sam", "variant": "sam", "base": "sgd", "space": "samtune: 1\n"},
    **{"sha256": "0" * 64, "settings": json.dumps({"mode": "max", "searched": ["lr"]})},
}
CONFIG = TrialConfig(
    trainable="trainables.vision:sam",
    variant="sam",
    base="sgd",
    knobs={"lr": 0.1},
    task={"dataset": "digits"},
    budget=Budget("compute", LIMIT),
    seeds=Seeds(1, 1, 1),
)


def curve(*values: float) -> Curve:
    """Return a report per unit of the budget; each value has an error of 0.01."""
    return Curve(tuple(map(float, range(1, len(values) + 1))), values, (0.01,) * len(values))


def random_curves(seed: int, trials: int) -> list[Curve]:
    draw = random.Random(seed)
    return [curve(*(draw.random() for _ in range(LIMIT))) for _ in range(trials)]


# The best at the end starts slowest; the one that leads at first ends last.
CROSSING = [
    curve(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.90),
    curve(0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.80),
    curve(0.3, 0.4, 0.5, 0.6, 0.6, 0.6, 0.6, 0.60),
    curve(0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.40),
]


def run(rule: str, curves: Sequence[Curve], order: Sequence[int], slots: int = 1) -> Any:
    asha = rule_of(rule if "tolerance" in rule else f"{rule},tolerance=0")
    return simulate(curves, rungs_for(asha, LIMIT, "max", len(curves)), order, slots, "max")


def test_stop_spends_and_misses_by_the_order_of_arrival() -> None:
    ascending = run("grace=2,factor=2", CROSSING, [0, 1, 2, 3])
    # Each leads, or shares the lead, when it comes to 2, and but for the last to 4.
    assert ascending.reached == 3 and ascending.spent == 8 + 8 + 8 + 4
    assert ascending.chosen == 0 and ascending.regret == 0 and ascending.wrong == 0
    descending = run("grace=2,factor=2", CROSSING, [3, 2, 1, 0])
    assert descending.spent == 8 + 2 + 2 + 2
    assert descending.chosen == 3 and descending.wrong == 3
    assert descending.regret == pytest.approx(0.5)


def test_halving_takes_the_same_whatever_the_order_and_only_time_depends_on_the_slots() -> None:
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        outcome = run("mode=halving,grace=2,factor=2", CROSSING, order)
        assert outcome.spent == outcome.span == 4 * 2 + 2 * 2 + 1 * 4
        assert outcome.chosen == 2 and outcome.reached == 1 and outcome.stopped == 3
    assert run("mode=halving,grace=2,factor=2", CROSSING, [0, 1, 2, 3], slots=4).span == LIMIT


def test_promote_resumes_a_trial_that_was_paused() -> None:
    outcome = run("mode=promote,grace=2,factor=4", CROSSING, [2, 3, 0, 1])
    # After the fourth, the first of the two that lead goes on to the end.
    assert outcome.chosen == 2 and outcome.spent == 4 * 2 + 6


def test_a_near_tie_at_the_rung_is_not_shot() -> None:
    curves = [curve(0.500, *[0.5] * 7), curve(0.495, *[0.9] * 7), curve(*[0.1] * 8)]
    for mode in ("promote", "halving"):
        for tolerance, regret in ((0, 0.4), (1, 0.0)):
            rule = f"mode={mode},grace=1,factor=3,tolerance={tolerance}"
            assert run(rule, curves, [0, 1, 2]).regret == pytest.approx(regret)


def test_without_stopping_everything_is_spent_and_found() -> None:
    outcome = run(f"grace={LIMIT}", CROSSING, [3, 2, 1, 0], slots=3)
    assert outcome.spent == 4 * LIMIT and outcome.reached == 4 and outcome.regret == 0


@pytest.mark.parametrize("mode", ["stop", "promote", "halving"])
def test_a_diverging_trial_is_gone_and_the_next_has_its_place(mode: str) -> None:
    curves = [curve(0.9, 0.9, math.nan), *CROSSING[1:]]
    outcome = run(f"mode={mode},grace=2,factor=2", curves, [0, 1, 2, 3], slots=2)
    assert outcome.chosen is not None and outcome.reached >= 1


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 2**32),
    st.integers(1, 20),
    st.sampled_from(["stop", "promote", "halving"]),
    st.integers(1, 5),
)
def test_an_audit_costs_what_it_says_and_finds_every_wrong_stop(
    seed: int, trials: int, mode: str, slots: int
) -> None:
    curves = random_curves(seed, trials)
    order = random.Random(seed).sample(range(trials), trials)
    audited = run(f"mode={mode},grace=1,factor=3,audit=1", curves, order, slots)
    assert audited.spent == pytest.approx(trials * LIMIT)
    assert audited.chosen is not None
    better = [c for c in curves if c.values[-1] > curves[audited.chosen].values[-1]]
    assert audited.wrong == len(better)
    if slots == 1 and mode == "halving":
        plain = run(f"mode={mode},grace=1,factor=3", curves, order, slots)
        assert audited.spent - audited.audit == pytest.approx(plain.spent)
        assert plain.chosen == audited.chosen


@given(st.integers(0, 2**32), st.integers(1, 40), st.sampled_from([0, 1]))
@settings(deadline=None, max_examples=30)
def test_the_plan_of_a_halving_is_what_it_spends(seed: int, trials: int, audit: int) -> None:
    rule = rule_of(f"mode=halving,grace=1,factor=2.5,tolerance=0,audit={audit}")
    curves = random_curves(seed, trials)
    outcome = simulate(curves, rungs_for(rule, LIMIT, "max", trials), range(trials), 3, "max")
    levels = milestones(rule.grace, rule.factor, LIMIT)
    assert outcome.spent == pytest.approx(
        sum(s.budget for s in forecast(trials, levels, rule, LIMIT, 1.0))
    )


# From the record


def recorded(
    runs: Path,
    curves: Sequence[Curve],
    states: Sequence[State] = (),
    space: str = STUDY["space"],
) -> Record:
    record = Record.create(runs, "whole", [STUDY | {"space": space}])
    for number, one in enumerate(curves):
        trial = record.add_trial(0, "search", number, "sampled", CONFIG)
        attempt, _ = record.start_attempt(trial)
        for epoch, (used, value) in enumerate(zip(one.used, one.values, strict=True), 1):
            record.add_report(trial.trial, attempt, message(epoch, used, value), "val_acc")
        state: State = "completed" if one.final is not None else "diverged"
        record.end_trial(trial.trial, states[number] if states else state)
    return record


def message(epoch: int, used: float, value: float) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "used": used,
        "metrics": {"val_acc": value, "see": used},
        "checkpoint": None,
        "checkpoint_sha256": None,
        "facts": {"n_val": 2400},
    }


def test_the_curves_are_read_with_errors_and_without_what_was_repeated(runs: Path) -> None:
    with recorded(runs, [*CROSSING, curve(0.5, math.nan)]) as record:
        trial = record.trial(1)
        attempt, _ = record.start_attempt(trial)
        for epoch in (7, 8):
            record.add_report(1, attempt, message(epoch, epoch, 0.5), "val_acc")
        record.end_trial(1, "completed")
        study = curves_of(record, record.studies()[0])
    assert study.unknown == {} and len(study.curves) == 5
    assert study.curves[0].values == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.5, 0.5)
    assert study.curves[0].errors[-1] == pytest.approx(math.sqrt(0.25 / 2400))
    assert study.curves[1:4] == [
        Curve(c.used, c.values, tuple(math.sqrt(v * (1 - v) / 2400) for v in c.values))
        for c in CROSSING[1:]
    ]
    assert study.curves[4].final is None and math.isnan(study.curves[4].values[-1])


def test_replays_of_one_run_are_alike_and_say_who_was_left_out(runs: Path) -> None:
    states: list[State] = ["completed", "completed", "completed", "cancelled"]
    with recorded(runs, CROSSING, states) as record:
        rules = ["mode=halving,grace=2,factor=3,tolerance=1", f"grace={LIMIT}"]
        first, again = (replay_of(record, rules, 2, 5) for _ in range(2))
    assert first == again
    (study,) = first
    assert study["unknown"] == {"cancelled": 1} and study["best"] == 0.9
    own, halving, full = study["rules"]
    assert [rule["own"] for rule in study["rules"]] == [True, False, False]
    assert own["asha"] == AshaSettings().model_dump()
    assert halving["spent"] == 3 * 2 + 6 and halving["missed"] == 1
    assert halving["regret"] == pytest.approx(0.3) and halving["wrong_stops"] == 1
    assert full["spent"] == study["budget_of_all"] and full["missed"] == 0
    shown = replay_text(study)
    assert "left out, because their whole curves are not known: 1 cancelled" in shown
    assert "halving 2 x 3, tolerance 1" in shown and "100%" in shown


def test_a_search_in_which_nobody_finishes_is_told(runs: Path) -> None:
    curves = [curve(0.9, 0.9, math.nan), curve(0.1, *[0.2] * 7)]
    with recorded(runs, curves) as record:
        study = curves_of(record, record.studies()[0])
    outcomes = simulated(study, rule_of("grace=1,factor=2"), 1, 8)
    found = summary(outcomes, 2)
    assert 0 < found["without_winner"] < 8 and found["missed"] == found["without_winner"] / 8


def test_the_command_prints_a_table_or_json(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded(runs, CROSSING).__exit__()
    words = ["replay", "whole", "--runs", str(runs), "--seeds", "3", "--slots", "2"]
    words += ["--asha", "mode=promote,grace=2,factor=2,tolerance=1", "--asha", "grace=4"]
    code, out, err = typed(capsys, *words)
    assert code == 0 and err == ""
    assert "promote 2 x 2, tolerance 1" in out and "stop 4 x 2" in out
    code, out, _ = typed(capsys, *words, "--json")
    found = json.loads(out)
    assert code == 0 and found["schema"] == "replay/1" and found["run"] == "whole"
    rule = found["studies"][0]["rules"][1]
    assert rule["asha"]["mode"] == "promote" and {"spent", "regret", "missed"} <= set(rule)


def test_a_rule_says_what_differs_from_the_run_s_own(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = "samtune: 1\nasha: {grace: 4, factor: 2, tolerance: 0}\n"
    recorded(runs, CROSSING, space=space).__exit__()
    words = ["replay", "whole", "--runs", str(runs), "--asha", "mode=promote"]
    code, out, _ = typed(capsys, *words, "--asha", "factor=2", "--asha", "grace=1")
    assert code == 0
    rows = [line.split("  ")[1] for line in out.splitlines()[2:]]
    assert rows == ["stop 4 x 2 (the run's own)", "promote 4 x 2", "stop 1 x 2"]


def test_every_mistake_in_the_rules_is_told_at_once(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded(runs, CROSSING).__exit__()
    rules = ["mode=promot,grace=x", "tolerance,grase=1", "factor=1", "grace=1,grace=2"]
    asha = [word for rule in rules for word in ("--asha", rule)]
    code, out, err = typed(capsys, "replay", "whole", "--runs", str(runs), *asha)
    assert code == 2 and out == ""
    for sentence in (
        "'promot' is none of stop, promote, halving; did you mean 'promote'?",
        "'x' is text, not a number",
        "--asha tolerance: write it as word=value, such as grace=4",
        "'grase' is not a known word here; did you mean 'grace'?",
        "asha.factor: must be greater than 1, not 1",
        "'grace' is given twice",
    ):
        assert sentence in err, err
    with pytest.raises(SpaceError):
        rule_of("")


def test_a_rescue_is_left_out_of_a_rule_that_has_none() -> None:
    own = AshaSettings(grace=8, factor=3, until=16, rescue=2)
    assert rule_of("factor=2", own).rescue == 2
    assert rule_of("mode=promote", own).rescue == 0 and rule_of("audit=0.5", own).rescue == 0
    with pytest.raises(SpaceError, match="rescue: it needs `mode: stop` and `audit: 0`"):
        rule_of("mode=promote,rescue=1", own)


def test_a_run_without_whole_curves_says_how_to_get_them(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded(runs, [curve(0.5, 0.6)], ["pruned"]).__exit__()
    code, _, err = typed(capsys, "replay", "whole", "--runs", str(runs), "--asha", "grace=2")
    assert code == 2
    assert "no trial of sam that used its full budget" in err and "asha.grace=8" in err
    code, _, err = typed(capsys, "replay", "nosuch", "--runs", str(runs), "--asha", "grace=2")
    assert code == 2 and "no run 'nosuch'" in err


def test_a_search_without_whole_curves_does_not_hide_the_others(runs: Path) -> None:
    with Record.create(runs, "two", [STUDY, STUDY | {"name": "gam"}]) as record:
        for study, state, last in ((0, "pruned", LIMIT / 2), (1, "completed", LIMIT - 0.1)):
            trial = record.add_trial(study, "search", 0, "sampled", CONFIG)
            attempt, _ = record.start_attempt(trial)
            record.add_report(trial.trial, attempt, message(1, last, 0.5), "val_acc")
            record.end_trial(trial.trial, state)
        none, whole = replay_of(record, ["grace=2"], 1, 2)
    assert "no trial of sam that used its full budget" in none["left_out"]
    assert replay_text(none).startswith("sam: two has no trial")
    # Its next epoch would not have fitted, so it is at its end.
    assert (whole["space"], whole["curves"], whole["best"]) == ("gam", 1, 0.5)
    cut = STUDY | {"space": "samtune: 1\nasha: {grace: 2, until: 7}\n"}
    with Record.create(runs, "until", [cut]) as record:
        trial = record.add_trial(0, "search", 0, "sampled", CONFIG)
        attempt, _ = record.start_attempt(trial)
        record.add_report(trial.trial, attempt, message(1, LIMIT - 1, 0.5), "val_acc")
        record.end_trial(trial.trial, "completed")
        with pytest.raises(RunError, match="until=8"):
            replay_of(record, ["grace=2"], 1, 2)


def test_an_earlier_end_and_a_rescue_can_be_replayed() -> None:
    """Stopped at 2, trial 1 is rescued; at 6 it leads, and at 8 the other does."""
    first = Curve(tuple(range(1, 9)), (*[0.5] * 7, 0.9), (0.0,) * 8)
    second = Curve(tuple(range(1, 9)), (*[0.4] * 4, *[0.6] * 4), (0.0,) * 8)
    rule = "grace=2,factor=2,tolerance=0,until=6"
    stopped, rescued = (run(f"{rule},rescue={count}", [first, second], [0, 1]) for count in (0, 1))
    assert (stopped.chosen, stopped.reached, stopped.stopped, stopped.spent) == (0, 1, 1, 8)
    assert (rescued.chosen, rescued.reached, rescued.stopped, rescued.spent) == (1, 2, 0, 12)
    assert stopped.regret == 0 and rescued.regret == pytest.approx(0.3)


@pytest.mark.parametrize("mode", ["stop", "promote", "halving"])
def test_wrong_stops_are_read_from_the_record(runs: Path, mode: str) -> None:
    """Trials one after another, each with its reports judged and on record."""
    rule = rule_of(f"mode={mode},grace=2,factor=3,tolerance=0,audit=1")
    rungs = rungs_for(rule, LIMIT, "max", 4)
    with Record.create(runs, "audited", [STUDY]) as record:
        trials = [record.add_trial(0, "search", k, "sampled", CONFIG) for k in range(4)]
        reported, new = dict.fromkeys(range(4), 0), [3, 2, 1, 0]
        while True:
            number = rungs.promoted()
            if number is None:
                if not new:
                    break
                number = new.pop(0)
            trial, one = trials[number], CROSSING[number]
            attempt, _ = record.start_attempt(trial)
            while reported[number] < LIMIT:
                k = reported[number]
                sent = message(k + 1, one.used[k], one.values[k])
                seq = record.add_report(trial.trial, attempt, sent, "val_acc")
                verdict = rungs.judge(number, one.used[k], one.values[k])
                record.add_decision(seq, verdict)
                reported[number] += 1
                if verdict.decision == "pause":
                    break
            else:
                record.end_trial(trial.trial, "completed")
        audited, wrong = wrong_stops(record)
        used = audit_used(record)
        told = {report.decision for report in record.reports()}
    outcome = run(f"mode={mode},grace=2,factor=3,audit=1", CROSSING, [3, 2, 1, 0])
    assert "audit" in told
    assert (audited, wrong, used) == (outcome.stopped, outcome.wrong, outcome.audit)
    assert audited > 0 and wrong > 0


def test_the_published_figures_are_what_the_published_curves_give() -> None:
    published = json.loads(TABLE.with_name("rungs.json").read_text())
    seeds = searches(TABLE)
    for rule in ("stop 8 x 2, tolerance 1", "halving 6 x 3, tolerance 1"):
        (row,) = (row for row in published["rules"] if row["rule"] == rule)
        made = measure(seeds, rule_of(rule_words(row["asha"])), row["slots"], published["orders"])
        for name in ("spent", "regret", "missed", "time"):
            assert made[name]["mean"] == pytest.approx(row[name]["mean"])


def rule_words(asha: dict[str, Any]) -> str:
    return ",".join(f"{word}={value}" for word, value in asha.items())
