"""The Pareto front: pure on arrays, and as it stands in the table of trials."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from test_record import CONFIG, STUDY

from samtune.record.export import export
from samtune.record.front import front
from samtune.record.ranking import ranked
from samtune.record.record import Record
from samtune.record.tables import read
from samtune.views.trials import trials_of


@pytest.mark.parametrize("aims", [1, 2, 3])
def test_a_front_is_what_no_other_point_dominates(aims: int) -> None:
    draw = random.Random(aims)
    for count in range(1, 40):
        # Few values, so that many points tie in some or all aims.
        points = [[float(draw.randrange(6)) for _ in range(aims)] for _ in range(count)]
        points[draw.randrange(count)][-1] = math.nan
        expected = [
            not any(map(math.isnan, p))
            and not any(
                all(b >= a for a, b in zip(p, q, strict=True)) and q != p
                for q in points
                if not any(map(math.isnan, q))
            )
            for p in points
        ]
        assert front(np.array(points)).tolist() == expected


def test_equal_points_are_both_on_the_front_and_nothing_has_none() -> None:
    assert front(np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 1.0]])).tolist() == [True, True, False]
    assert front(np.zeros((0, 2))).tolist() == []
    assert front(np.full((2, 2), math.nan)).tolist() == [False, False]


def test_trials_know_whether_they_are_feasible_and_on_the_front(runs: Path) -> None:
    settings = json.loads(STUDY["settings"]) | {
        "aims": {"val_acc": "max", "see": "min"},
        "constraints": {"s_per_step": 0.2},
    }
    # state, val_acc, see, seconds per step -> feasible, pareto
    trials = [
        ("completed", 0.9, 20, 0.1, True, True),
        ("completed", 0.8, 10, 0.1, True, True),
        ("completed", 0.7, 15, 0.1, True, False),
        ("completed", 0.99, 5, 0.3, False, False),
        ("pruned", 0.95, 4, 0.1, True, False),
        ("completed", 0.9, math.nan, 0.1, True, False),
        ("diverged", math.nan, 3, math.nan, False, False),
    ]
    plain = dict(STUDY, name="plain", settings=json.dumps(json.loads(STUDY["settings"])))
    with Record.create(runs, "two", [dict(STUDY, settings=json.dumps(settings)), plain]) as record:
        for study, (number, row) in itertools.product((0, 1), enumerate(trials)):
            state, acc, see, pace, *_ = row
            trial = record.add_trial(study, "search", number, "sampled", CONFIG)
            attempt, _ = record.start_attempt(trial)
            metrics = {"val_acc": acc, "see": see, "train_s": 10 * pace, "step": 10}
            report = {"epoch": 1, "used": 1.0, "metrics": metrics, "facts": {}}
            report |= {"checkpoint": None, "checkpoint_sha256": None}
            record.add_report(trial.trial, attempt, report, "val_acc")
            record.end_trial(trial.trial, state, None)
        first, second = record.studies()
        # A trial that misses a constraint cannot win, however good it is.
        assert [trial.number for trial, _ in ranked(record, first, most=2)] == [0, 5]
        assert [trial.number for trial, _ in ranked(record, second, most=2)] == [3, 0]
        assert (
            first.no_winner == "no trial was completed within its constraints (s_per_step <= 0.2)"
        )
        assert second.no_winner == "no trial was completed"
        listed = trials_of(record)
        export(record)
        table = read(record.folder / "trials.parquet", "trials").to_pylist()
    assert listed[0]["aims"] == {"see": 20} and listed[0]["misses"] == []
    assert listed[3]["misses"] == ["s_per_step <= 0.2"]
    assert listed[len(trials)]["aims"] == {} and listed[len(trials) + 3]["misses"] == []
    of_first, of_second = table[: len(trials)], table[len(trials) :]
    assert [(row["feasible"], row["pareto"]) for row in of_first] == [row[-2:] for row in trials]
    assert {(row["feasible"], row["pareto"]) for row in of_second} == {(None, None)}
    assert of_first[0]["s_per_step"] == pytest.approx(0.1)
    assert json.loads(of_first[0]["aims"]) == settings["aims"]
    assert [*json.loads(of_first[0]["aims"])] == ["val_acc", "see"]
    assert json.loads(of_second[0]["aims"]) == {"val_acc": "max"}
